"""What a model author's code cannot do in real workers: fresh, forked, or sharing a model."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flambeau import landlock
from flambeau.archive import unpack
from flambeau.child import Launch, SharedModel, start_fresh
from flambeau.confinement import confine
from flambeau.messages import Isolation, IsolationLevel, LoadModel, Reply
from flambeau.output import Stream
from flambeau.process import WorkerProcess
from flambeau.templates import Templates
from flambeau.testing import make_archive, make_request

pytestmark = pytest.mark.slow  # workers import torch

COMMAND = (Path(sys.executable), "flambeau.worker")
ENVIRONMENT = dict(os.environ)
needs_landlock = pytest.mark.skipif(
    landlock.kernel_abi() < 6, reason="the kernel's Landlock is older than version 6, or missing"
)

TRYING = """
    import os, resource, socket, subprocess, tempfile, threading
    from pathlib import Path

    import torch

    def attempt(action):
        try:
            action()
        except PermissionError:
            return "denied"
        return "done"

    def connect():
        with socket.socket() as sock:
            try:
                sock.connect(("127.0.0.1", 9))
            except ConnectionRefusedError:
                pass

    def multiply():
        torch.ones(300, 300).mm(torch.ones(300, 300))

    def handle(data, context):
        if data is None:
            return None
        (row,) = data
        secret, front = row["body"]["secret"], row["body"]["front"]
        status = Path("/proc/self/status").read_text()
        return [{
            "read passwd": attempt(Path("/etc/passwd").read_bytes),
            "read secret": attempt(Path(secret).read_bytes),
            "write model": attempt(lambda: Path("new").write_bytes(b"x")),
            "write secret": attempt(lambda: Path(secret).write_bytes(b"x")),
            "write temporary": attempt(lambda: tempfile.TemporaryFile().write(b"x")),
            "connect": attempt(connect),
            "bind": attempt(lambda: socket.create_server(("127.0.0.1", 0)).close()),
            "kill front": attempt(lambda: os.kill(front, 0)),
            "front's environment": attempt(Path(f"/proc/{front}/environ").read_bytes),
            "kill own child": attempt(lambda: subprocess.Popen(["sleep", "60"]).kill()),
            "pair": attempt(socket.socketpair),
            "thread": attempt(threading.Thread(target=multiply).start),
            "import": attempt(lambda: __import__("sqlite3")),
            "umask": os.umask(0o077),
            "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            "file bytes": resource.getrlimit(resource.RLIMIT_FSIZE)[1],
            "no_new_privs": "NoNewPrivs:\\t1" in status,
            "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
        }]
"""
LIMITED = {
    "umask": 0o077,
    "core": 0,
    "files": 1000,
    "file bytes": 1 << 30,
    "no_new_privs": True,
    "oom_score_adj": 500,
}
POSSIBLE = dict.fromkeys(("write temporary", "kill own child", "pair", "thread", "import"), "done")
FENCED = ("read passwd", "read secret", "write model", "write secret", "connect", "bind")
OUTSIDE = ("kill front", "front's environment")


@pytest.fixture(scope="module")
def loop() -> Generator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def templates(loop: asyncio.AbstractEventLoop) -> Generator[Templates]:
    templates = Templates(Launch(command=COMMAND, environment=ENVIRONMENT), is_on=True)
    loop.run_until_complete(templates.__aenter__())
    yield templates
    loop.run_until_complete(templates.__aexit__(None, None, None))


def load_message(directory: Path, *, level: IsolationLevel, **liberties: Any) -> LoadModel:  # noqa: ANN401  # of `Isolation`
    model_dir, scratch_dir = directory / "model", directory / "scratch"
    model_dir.mkdir()
    scratch_dir.mkdir()
    unpack(make_archive(directory, name="m", handler=TRYING), model_dir)
    (directory / "secret").write_bytes(b"of somebody else")
    return LoadModel(
        model_name="m",
        model_version="1.0",
        model_dir=str(model_dir),
        handler=None,
        device="cpu",
        max_batch_size=1,
        num_threads=2,
        max_response_bytes=1 << 20,
        server_version="0",
        isolation=Isolation(
            level=level,
            scratch_dir=str(scratch_dir),
            max_open_files=1000,
            max_file_bytes=1 << 30,
            **liberties,
        ),
    )


@asynccontextmanager
async def worker(
    load: LoadModel, templates: Templates, *, kind: str
) -> AsyncGenerator[tuple[WorkerProcess, str]]:
    """A worker that is ready, and what it says of its isolation."""
    shared = SharedModel(load=load, only_builtin=False, timeout_s=60)
    process = await WorkerProcess.start(
        load,
        environment=ENVIRONMENT,
        command=COMMAND,
        start_process=start_fresh if kind == "fresh" else templates.start_worker,
        shared=shared if kind == "shared" else None,
        response_timeout_s=60,
        on_output=_ignore,
    )
    loaded = await process.wait_ready(timeout_s=60, on_progress=lambda _: None)
    yield process, loaded.isolation
    await process.stop(grace_s=5)
    assert await process.wait_exited() == "exit code 0"
    templates.forget(shared)


async def tried(process: WorkerProcess, directory: Path) -> dict[str, Any]:
    order = {"secret": str(directory / "secret"), "front": os.getpid()}
    request = make_request(json.dumps(order).encode())
    headers = [("content-type", "application/json")]
    (body,) = request.inputs
    typed = type(body)(name="body", content_type="application/json", body=body.body)
    done = await process.run([type(request)("id", headers, [typed])])
    (reply,) = done.results
    assert isinstance(reply, Reply), reply
    return dict(json.loads(bytes(reply.body)))


@needs_landlock
@pytest.mark.parametrize("kind", ["fresh", "forked", "shared"])
def test_a_fenced_worker_reaches_its_own_files_and_nobody_else(
    loop: asyncio.AbstractEventLoop, templates: Templates, tmp_path: Path, kind: str
) -> None:
    async def story() -> None:
        load = load_message(tmp_path, level=IsolationLevel.STRICT)
        async with worker(load, templates, kind=kind) as (process, isolation):
            assert isolation == "strict, Landlock 7"
            denied = dict.fromkeys((*FENCED, *OUTSIDE), "denied")
            assert await tried(process, tmp_path) == {**denied, **POSSIBLE, **LIMITED}

    loop.run_until_complete(asyncio.wait_for(story(), 90))


@needs_landlock
def test_what_an_operator_allows_a_fenced_worker_may_do(
    loop: asyncio.AbstractEventLoop, templates: Templates, tmp_path: Path
) -> None:
    async def story() -> None:
        load = load_message(
            tmp_path,
            level=IsolationLevel.STRICT,
            allow_network=True,
            read_paths=[str(tmp_path / "secret")],
        )
        async with worker(load, templates, kind="forked") as (process, _):
            found = await tried(process, tmp_path)
            may = {name for name in (*FENCED, *OUTSIDE) if found[name] == "done"}
            assert may == {"read secret", "connect", "bind"}

    loop.run_until_complete(asyncio.wait_for(story(), 90))


def test_a_worker_with_limits_only_does_all_that_torchserves_could(
    loop: asyncio.AbstractEventLoop, templates: Templates, tmp_path: Path
) -> None:
    async def story() -> None:
        load = load_message(tmp_path, level=IsolationLevel.BASIC)
        async with worker(load, templates, kind="forked") as (process, isolation):
            assert isolation == "basic"
            done = dict.fromkeys((*FENCED, *OUTSIDE), "done")
            assert await tried(process, tmp_path) == {**done, **POSSIBLE, **LIMITED}

    loop.run_until_complete(asyncio.wait_for(story(), 90))


@needs_landlock
@pytest.mark.parametrize(
    ("max_abi", "text"),
    [
        (0, "strict, without Landlock; open: files, signals, TCP"),
        (3, "strict, Landlock 3; open: TCP, signals"),
    ],
)
def test_what_a_kernel_cannot_keep_out_is_said(tmp_path: Path, max_abi: int, text: str) -> None:
    load = load_message(tmp_path, level=IsolationLevel.STRICT)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, confine(load, max_abi=max_abi).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.read() == text
    assert os.waitpid(pid, 0)[1] == 0


def _ignore(stream: Stream, line: str) -> None:
    """What a worker prints."""
