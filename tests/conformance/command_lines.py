"""The `torchserve` command: what it prints and how it ends, one call after the other.

A call is kept as an exchange is: its arguments are the target, its exit code is the status and what
it prints is the body, with log lines left out. After calls that start or stop a server it is noted
whether the file with the keys is there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from flambeau.torchserve.exchange import Answer, Exchange, Request
from flambeau.torchserve.launch import Launch, Port, environment_of, free_ports, properties_text
from flambeau.torchserve.upstream import READY_LINE
from tests.conformance.archives import build
from tests.conformance.scenario import RECORDINGS, Side

_PATIENCE_S: Final = 60.0
_MESSAGES: Final = re.compile(r"torchserve|--|Invalid|mandatory", re.IGNORECASE)
_LOG_LINE: Final = re.compile(
    r"^\d{4}-\d\d-\d\d|^\s|^WARNING|^TorchServe now enforces|^[A-Z][\w ]+: "
)
_CONFIG: Final = "--ts-config own.properties"


def _call(name: str, target: str) -> Request:
    return Request(name=name, port=Port.INFERENCE, method="torchserve", target=target)


CALLS: Final = (
    _call("version", "--version"),
    _call("version, short", "-v"),
    _call("stop what does not run", "--stop"),
    _call("stop in the foreground", "--stop --foreground"),
    _call("start without a store", "--start"),
    _call("start without a word", ""),
    _call("start with a store that is not there", "--start --model-store absent"),
    _call("start with a file as store", "--start --model-store own.properties"),
    _call("start with a configuration that is not there", "--start --ts-config absent.properties"),
    _call(
        "start with a workflow store that is not there",
        "--start --model-store store --workflow-store absent",
    ),
    _call(
        "start with a log configuration that is not there",
        "--start --model-store store --log-config absent.xml",
    ),
    _call("start and stop at once", "--start --stop"),
    _call("a flag that there is not", "--start --no-such-flag"),
    _call("start", f"--start {_CONFIG} --ncs --models plain=plain.mar"),
    _call("start again", f"--start {_CONFIG} --ncs"),
    _call("version while it runs", "--version"),
    _call("stop", "--stop"),
    _call("stop again", "--stop"),
    _call("start with short flags", f"{_CONFIG} --ncs --dt --models all --enable-model-api"),
    _call("stop that", "--stop"),
)


class CommandLines:
    """All calls, in order, in one directory."""

    name = "command_lines"
    requests = CALLS
    recorded = RECORDINGS / "command_lines.jsonl"

    def run(self, side: Side, directory: Path) -> tuple[list[Exchange], dict[str, str]]:
        """Make every call; returns them as exchanges, and the values of tags."""
        store = directory / "store"
        for name in ("store", "tmp", "logs"):
            (directory / name).mkdir()
        build(["plain"], store)
        launch = Launch(store=store, token_auth=True)
        ports = free_ports(5)
        properties = properties_text(launch, ports=ports, directory=directory)
        (directory / "own.properties").write_text(
            properties.replace("disable_token_authorization=false\n", ""), encoding="utf-8"
        )
        environment = environment_of(launch, directory)
        with _ended(directory):
            return [
                Exchange(
                    request=call,
                    answer=_made(call, side.command(), directory, environment, ports[0]),
                )
                for call in CALLS
            ], {"directory": str(directory)}


def _made(
    call: Request, command: list[str], directory: Path, environment: dict[str, str], port: int
) -> Answer:
    printed = directory / f"{call.name}.txt"  # one each: a server keeps writing into its own
    with printed.open("wb") as file:
        done = subprocess.run(
            [*command, *shlex.split(call.target)],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
        )
    notes = []
    if "own.properties" in call.target and done.returncode == 0:
        _wait_answers(port)
        _wait(lambda: READY_LINE in printed.read_text(), "it says that it has started")
        notes.append(READY_LINE)
    if "start" in call.name or "stop" in call.name:
        there = (directory / "key_file.json").exists()
        notes.append("there are keys" if there else "there are no keys")
    lines = [line for line in printed.read_text(encoding="utf-8").splitlines() if _is_message(line)]
    return Answer(status=done.returncode, body="".join(f"{x}\n" for x in lines + notes).encode())


def _is_message(line: str) -> bool:
    return not _LOG_LINE.search(line) and _MESSAGES.search(line) is not None


def _wait_answers(port: int) -> None:
    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/ping").status_code in {200, 400}
        except httpx.TransportError:
            return False

    _wait(answers, "it answers")


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline_at = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_at:
            raise TimeoutError(f"waited in vain until {what}")
        time.sleep(0.05)


@contextmanager
def _ended(directory: Path) -> Generator[None]:
    """End a server that a call left behind, should a later one not have ended it."""
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int((directory / "tmp" / ".model_server.pid").read_text(encoding="utf-8"))
            os.kill(pid, signal.SIGKILL)
