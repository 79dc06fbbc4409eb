"""The whole road on real data, in one go: `make demo`.

Trains LeNet-5 on scikit-learn's scanned digits, exports it, serves it, posts held-out scans as PNG
over HTTP, then trains and deploys a second version while a client keeps posting, scrapes the
metrics, and shuts the server down. Every command is the one a user would type. Exits with 1 when
any of it is not as it should be.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from training.config import read_config
from training.data import load_data, write_png_samples

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "training/configs/digits_lenet.toml"
RUNS = Path("runs/demo")
STORE = Path("model_store")
MIN_ACCURACY = 0.97
NUM_SHOWN = 10
SERVER_LOG = RUNS / "server.log"
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0


class Failed(Exception):  # noqa: N818  # reads as what it says
    """Something is not as it should be; the message says what."""


def main() -> int:
    """Run the demo; returns the exit code."""
    try:
        tell_story()
    except (Failed, subprocess.CalledProcessError, httpx.HTTPError) as error:
        print(f"\nDEMO FAILED: {error}", file=sys.stderr)
        return 1
    print("\nDemo done: everything was as it should be.")
    return 0


def tell_story() -> None:
    """Train, export, serve, predict, swap under load, scrape, stop."""
    shutil.rmtree(ROOT / RUNS, ignore_errors=True)  # what an earlier demo left
    chapter("Train version 1")
    train(RUNS / "v1", seed=1)
    chapter("Export it, proved equal to the model in Python")
    export(RUNS / "v1", version="1.0")
    chapter("Serve it")
    with serving(f"digits={archive('1.0').name}") as server:
        chapter("Post held-out scans as PNG")
        pictures = held_out_pictures()
        post_and_compare(server, pictures)
        chapter("Train and deploy version 2 while a client keeps posting")
        with posting(server, pictures) as client:
            train(RUNS / "v2", seed=2)
            export(RUNS / "v2", version="2.0")
            deploy(server, archive("2.0"))
            client.wait_for_answers("2.0", count=50)
        client.report()
        chapter("Scrape a few metrics")
        show_metrics(server, num_sent=client.num_sent + len(pictures))
        chapter("Stop the server")
    print("stopped with exit code 0")


def chapter(title: str) -> None:
    print(f"\n== {title}", flush=True)


def run(*command: str) -> None:
    """Show a command as a user would type it, and run it from the project's root."""
    print("$ " + " ".join(command), flush=True)
    program = Path(sys.executable).with_name(command[0])  # this environment's python or flambeau
    subprocess.run([str(program), *command[1:]], cwd=ROOT, check=True)


def train(output: Path, *, seed: int) -> None:
    run("python", "-m", "training.train", CONFIG, f"output={output}", f"seed={seed}")


def archive(version: str) -> Path:
    return STORE / f"digits-{version}.mar"


def export(run_dir: Path, *, version: str) -> None:
    checkpoint = run_dir / "checkpoints" / "best.pt"
    run(
        *("flambeau", "export", "--checkpoint", str(checkpoint), "--name", "digits"),
        *("--version", version, "--output", str(archive(version)), "--force"),
    )


@dataclass(frozen=True, slots=True)
class Server:
    """A running server's addresses."""

    inference: str
    management: str
    metrics: str


@contextmanager
def serving(model: str) -> Generator[Server]:
    """A server on free ports; stopped by SIGTERM at the end, which must exit with 0."""
    command = [
        str(Path(sys.executable).with_name("flambeau")),
        *("serve", "--model-store", str(STORE), "--models", model),
        *("--inference-address", "127.0.0.1:0", "--management-address", "127.0.0.1:0"),
        *("--metrics-address", "127.0.0.1:0", "--no-grpc"),
        *("--state-file", ""),  # each demo begins anew
    ]
    print("$ " + " ".join(["flambeau", *command[1:]]), flush=True)
    (ROOT / SERVER_LOG).parent.mkdir(parents=True, exist_ok=True)
    with (
        (ROOT / SERVER_LOG).open("w") as log,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            server = read_addresses(process)
            wait_ready(server, process)
            yield server
        except BaseException:
            process.kill()
            raise
        process.send_signal(signal.SIGTERM)
        code = process.wait(_STOP_TIMEOUT_S)
    if code != 0:
        raise Failed(f"the server's exit code is {code}; its log is {SERVER_LOG}")


def read_addresses(process: subprocess.Popen[str]) -> Server:
    """The addresses a starting server prints, up to its last line of greeting."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        print(f"  {line}", end="")
        if match := re.fullmatch(r"(\w+) at (http\S+)\n", line):
            found[match[1]] = match[2]
        if line.startswith("Model server started."):
            return Server(**found)
    raise Failed(f"the server did not start; its log is {SERVER_LOG}")


def wait_ready(server: Server, process: subprocess.Popen[str]) -> None:
    """Poll until the model answers; a server that ends, or is not ready in time, is a failure."""
    tick = threading.Event()
    for _ in range(int(_START_TIMEOUT_S / 0.1)):
        if process.poll() is not None:
            break
        if httpx.get(f"{server.inference}/readyz").status_code == 200:
            return
        tick.wait(0.1)
    raise Failed(f"the model is not ready after {_START_TIMEOUT_S:g} s; see {SERVER_LOG}")


def held_out_pictures() -> list[tuple[bytes, str]]:
    """Scans that training never saw, as PNG files with their labels."""
    config = read_config(ROOT / CONFIG)
    data = load_data(config.data, image=config.image)
    samples = write_png_samples(data.val, ROOT / RUNS / "png", count=len(data.val))
    return [(path.read_bytes(), data.classes[label]) for path, label in samples]


def predict(client: httpx.Client, server: Server, picture: bytes) -> httpx.Response:
    headers = {"content-type": "image/png"}
    return client.post(f"{server.inference}/predictions/digits", content=picture, headers=headers)


def post_and_compare(server: Server, pictures: Sequence[tuple[bytes, str]]) -> None:
    """Post every picture; most answers must be the truth."""
    num_right = 0
    with httpx.Client() as client:
        for number, (picture, truth) in enumerate(pictures):
            response = predict(client, server, picture)
            response.raise_for_status()
            label, probability = next(iter(response.json().items()))
            num_right += label == truth
            if number < NUM_SHOWN:
                print(f"  predicted {label} ({probability:.3f})   truth {truth}")
    accuracy = num_right / len(pictures)
    print(f"  {num_right} of {len(pictures)} held-out scans right: {accuracy:.1%}")
    if accuracy < MIN_ACCURACY:
        raise Failed(f"accuracy over HTTP is {accuracy:.1%}; expected {MIN_ACCURACY:.0%} or more")


@dataclass(slots=True)
class PostingClient:
    """What a client that posts without a pause has seen."""

    num_sent: int = 0
    failures: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def note(self, response: httpx.Response | httpx.HTTPError) -> None:
        with self.changed:
            self.num_sent += 1
            if isinstance(response, httpx.HTTPError) or response.status_code != 200:
                self.failures.append(str(response))
            else:
                self.answers[response.headers["x-model-version"]] += 1
            self.changed.notify_all()

    def wait_for_answers(self, version: str, *, count: int) -> None:
        """Wait until a version has answered so often."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.answers[version] >= count, timeout=30):
                raise Failed(f"version {version} answered only {self.answers[version]} requests")

    def report(self) -> None:
        """Print the ledger; every request must have been answered, by both versions in turn."""
        versions = ", ".join(f"version {v}: {n}" for v, n in sorted(self.answers.items()))
        print(f"  requests sent: {self.num_sent}, failed: {len(self.failures)}, {versions}")
        if self.failures:
            raise Failed(f"{len(self.failures)} requests failed, the first with {self.failures[0]}")
        if set(self.answers) != {"1.0", "2.0"}:
            raise Failed(f"expected answers of versions 1.0 and 2.0, got {dict(self.answers)}")


@contextmanager
def posting(server: Server, pictures: Sequence[tuple[bytes, str]]) -> Generator[PostingClient]:
    """A client in a thread that posts picture after picture until the block ends."""
    seen, stop = PostingClient(), threading.Event()

    def post_until_stopped() -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                picture, _ = pictures[seen.num_sent % len(pictures)]
                try:
                    seen.note(predict(client, server, picture))
                except httpx.HTTPError as error:
                    seen.note(error)
                stop.wait(0.01)  # leave the training beside it a core to work on

    thread = threading.Thread(target=post_until_stopped)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def deploy(server: Server, path: Path) -> None:
    run(
        *("flambeau", "models", "--management-url", server.management),
        *("deploy", "digits", str(path), "--model-store", str(STORE)),
    )


def show_metrics(server: Server, *, num_sent: int) -> None:
    """Print a few series; the server must have counted what was sent."""
    page = httpx.get(f"{server.metrics}/metrics").text
    names = ("flambeau_requests_total", "flambeau_default", "flambeau_workers", "ts_inference_req")
    for line in page.splitlines():
        if line.startswith(names) and not line.endswith(" 0.0"):
            print(f"  {line}")
    counted = re.findall(r'flambeau_requests_total{.*outcome="ok".*} (\S+)', page)
    total = int(sum(float(value) for value in counted))
    if total != num_sent:
        raise Failed(f"the server counted {total} predictions, but {num_sent} were sent")


if __name__ == "__main__":
    sys.exit(main())
