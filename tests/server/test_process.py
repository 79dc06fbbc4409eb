from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from flambeau import wire
from flambeau.archive import unpack
from flambeau.child import describe_exit
from flambeau.errors import LoadFailed, OutOfResources, WorkerDied, WorkerTimeout
from flambeau.memory_watch import memory_bytes, watch_memory
from flambeau.messages import InferenceRequest, Input, LoadModel, LoadStage, Reply
from flambeau.process import WorkerProcess
from flambeau.testing import make_archive, make_request

ECHO = """
    import ctypes, json, os, stat, subprocess, sys, time

    grown = []

    def speak(payload):
        for number in range(3, 256):
            try:
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.write(number, len(payload).to_bytes(8, "little") + payload)
            except OSError:
                pass
        time.sleep(600)

    def handle(data, context):
        if data is None:
            print("loading")
            return None
        orders = [bytes(row["body"]).decode() for row in data]
        if "die" in orders:
            os._exit(7)
        if "hang" in orders:
            time.sleep(600)
        if "hold the lock" in orders:
            ctypes.PyDLL(None).sleep(600)  # never lets another thread run
        if "grow" in orders:
            grown.append(b"x" * (1 << 30))
            time.sleep(600)
        if "speak out of turn" in orders:
            speak(b"\\x85\\xa4type\\xa9BatchDone\\xa8batch_id\\xcd\\x03\\xe7\\xa7results\\x90"
                  b"\\xa9handler_s\\xcb" + bytes(8) + b"\\xa7metrics\\x90")
        if "speak nonsense" in orders:
            speak(b"nonsense")
        if "child" in orders:
            return [str(subprocess.Popen(["sleep", "600"]).pid) for _ in data]
        return orders
"""


class Lines:
    """Collects what a worker prints."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, stream: str, line: str) -> None:
        self.seen.append((stream, line))


async def start(
    directory: Path, handler: str = ECHO, *, timeout_s: float = 60.0, lines: Lines | None = None
) -> WorkerProcess:
    model_dir = directory / "model"
    model_dir.mkdir()
    unpack(make_archive(directory, name="m", handler=handler), model_dir)
    load = LoadModel(
        model_name="m",
        model_version="1.0",
        model_dir=str(model_dir),
        handler=None,
        device="cpu",
        max_batch_size=8,
        num_threads=1,
        max_response_bytes=1 << 20,
        server_version="0",
    )
    return await WorkerProcess.start(
        load,
        environment=dict(os.environ),
        response_timeout_s=timeout_s,
        on_output=lines or Lines(),
    )


async def ready(process: WorkerProcess, *, timeout_s: float = 60.0) -> list[LoadStage]:
    stages: list[LoadStage] = []
    await process.wait_ready(timeout_s=timeout_s, on_progress=stages.append)
    return stages


async def ask(process: WorkerProcess, *bodies: bytes) -> list[bytes]:
    done = await process.run([make_request(body) for body in bodies])
    replies = [result for result in done.results if isinstance(result, Reply)]
    assert len(replies) == len(bodies)
    return [bytes(reply.body) for reply in replies]


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 90))


@pytest.mark.slow
def test_a_worker_tells_its_stages_answers_and_ends_when_asked(tmp_path: Path) -> None:
    async def story() -> None:
        lines = Lines()
        process = await start(tmp_path, lines=lines)
        stages = await ready(process)
        assert stages == [LoadStage.LOADING, LoadStage.WARMING_UP, LoadStage.CHECKING]
        assert await ask(process, b"a", b"b") == [b"a", b"b"]
        assert await ask(process, b"x" * 1_000_000) == [b"x" * 1_000_000]
        assert process.memory_bytes > 1 << 20
        pid = process.pid
        await process.stop(grace_s=30)
        assert await process.wait_exited() == "exit code 0"
        assert not psutil.pid_exists(pid)
        assert ("stdout", "loading") in lines.seen

    run(story)


@pytest.mark.slow
def test_a_worker_that_dies_during_a_batch_fails_it(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path)
        await ready(process)
        with pytest.raises(WorkerDied, match=r"^Worker died\.$"):
            await ask(process, b"die")
        assert await process.wait_exited() == "exit code 7"

    run(story)


@pytest.mark.slow
def test_a_worker_killed_from_outside_fails_its_batch(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path)
        await ready(process)
        batch = asyncio.ensure_future(ask(process, b"hang"))
        await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await batch
        assert await process.wait_exited() == "killed by SIGKILL"

    run(story)


@pytest.mark.slow
def test_a_worker_that_misses_its_deadline_is_killed(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path, timeout_s=0.2)
        await ready(process)
        with pytest.raises(WorkerTimeout, match=r"response_timeout 0\.2 s"):
            await ask(process, b"hang")
        assert await process.wait_exited() == "killed by SIGKILL"

    run(story)


@pytest.mark.slow
@pytest.mark.parametrize("order", [b"hold the lock", b"hang"])
def test_a_worker_that_stands_still_is_killed_from_outside(tmp_path: Path, order: bytes) -> None:
    async def story() -> None:
        process = await start(tmp_path, timeout_s=0.3)
        await ready(process)
        batch = asyncio.ensure_future(ask(process, order))
        if order == b"hang":
            os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(WorkerTimeout):
            await batch
        assert await process.wait_exited() == "killed by SIGKILL"
        assert process.was_busy

    run(story)


@pytest.mark.slow
@pytest.mark.parametrize("order", [b"speak out of turn", b"speak nonsense"])
def test_a_worker_that_answers_what_nobody_asked_is_ended(tmp_path: Path, order: bytes) -> None:
    async def story() -> None:
        process = await start(tmp_path)
        await ready(process)
        with pytest.raises(WorkerDied):
            await ask(process, order)
        assert await process.wait_exited() == "killed by SIGKILL"

    run(story)


@pytest.mark.slow
def test_a_worker_that_holds_too_much_memory_is_ended_and_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path)
        await ready(process)
        held = memory_bytes(process.pid, more_than=0)
        assert 1 << 25 < held < 1 << 30
        watching = asyncio.ensure_future(watch_memory(process, max_bytes=1 << 30))
        assert await ask(process, b"fine") == [b"fine"]
        with pytest.raises(OutOfResources, match=f"more than maxMemory {1 << 30}"):
            await ask(process, b"grow")
        await watching
        assert await process.wait_exited() == "killed by SIGTERM"

    run(story)


@pytest.mark.slow
def test_a_batch_behind_one_that_is_too_slow_is_not_too_slow_itself(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path, timeout_s=0.5)
        await ready(process)
        first, second = (process.run([make_request(order)]) for order in (b"hang", b"fine"))
        with pytest.raises(WorkerTimeout):
            await first
        with pytest.raises(WorkerDied):  # not too slow itself
            await second

    run(story)


@pytest.mark.slow
def test_what_a_handler_started_ends_with_its_worker(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path)
        await ready(process)
        (child,) = await ask(process, b"child")
        orphan = psutil.Process(int(child))
        await process.kill()
        psutil.wait_procs([orphan], timeout=10)
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE

    run(story)


@pytest.mark.slow
def test_the_original_error_of_a_failed_load_reaches_the_caller(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path, "import surely_not_installed")
        with pytest.raises(LoadFailed, match=r"loading failed.*surely_not_installed"):
            await ready(process)
        assert not psutil.pid_exists(process.pid)

    run(story)


@pytest.mark.slow
def test_a_worker_that_ends_while_loading_is_quoted(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path, "import os; print('last words', flush=True); os._exit(3)")
        with pytest.raises(WorkerDied, match=r"while loading: exit code 3.*last words"):
            await ready(process)

    run(story)


@pytest.mark.slow
def test_a_load_that_hangs_ends_at_its_deadline(tmp_path: Path) -> None:
    async def story() -> None:
        process = await start(tmp_path, "import time; time.sleep(600)")
        with pytest.raises(WorkerTimeout, match=r"startup_timeout 4 s"):
            await ready(process, timeout_s=4)
        assert not psutil.pid_exists(process.pid)

    run(story)


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit code 0"), (137, "exit code 137"), (-11, "killed by SIGSEGV"), (-99, "signal 99")],
)
def test_how_a_process_ended_is_said_in_words(code: int, text: str) -> None:
    assert text in describe_exit(code)


SUMS = """
    import os, zlib

    def handle(data, context):
        rows = data or []
        if any(bytes(row.get("body", b"")) == b"die" for row in rows):
            os._exit(7)
        return [",".join(f"{n}={len(row[n])}:{zlib.crc32(row[n])}" for n in row) for row in rows]
"""


def parts_of(*bodies: bytes) -> InferenceRequest:
    """A form."""
    names = ("first", "second", "third")
    inputs = [
        Input(name=name, content_type=None, body=memoryview(body))
        for name, body in zip(names, bodies, strict=False)
    ]
    return InferenceRequest(request_id="id", headers=[], inputs=inputs)


def sums(request: InferenceRequest) -> bytes:
    """What SUMS answers."""
    texts = (f"{p.name}={len(p.body)}:{zlib.crc32(p.body)}" for p in request.inputs)
    return ",".join(texts).encode()


def open_arenas() -> int:
    return sum("flambeau-bodies" in str(each.readlink()) for each in _descriptors())


def _descriptors() -> list[Path]:
    found: list[Path] = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself is closed by now
            each.readlink()
            found.append(each)
    return found


@pytest.mark.slow
def test_large_bodies_arrive_whole_and_a_lost_worker_leaves_no_memory_open(tmp_path: Path) -> None:
    async def story() -> None:
        before = len(_descriptors())
        process = await start(tmp_path, SUMS)
        await ready(process)
        assert open_arenas() == 1
        edge = wire.LARGE_BODY_BYTES
        batches = [
            [make_request(os.urandom(edge + more)) for more in (-1, 0, 1)],
            [parts_of(os.urandom(edge * 3), b"small", os.urandom(edge)), make_request(b"x")],
            [make_request(os.urandom(18 << 20)) for _ in range(8)],  # more than there is room for
            *([make_request(os.urandom(edge * 2))] for _ in range(200)),
        ]
        for requests in batches:
            done = await process.run(requests)
            replies = [bytes(each.body) for each in done.results if isinstance(each, Reply)]
            assert replies == list(map(sums, requests))
        running = process.run([make_request(bytes(edge)), make_request(b"die")])
        behind = process.run([make_request(bytes(edge))])
        for lost in (running, behind):
            with pytest.raises(WorkerDied):
                await lost
        await process.wait_exited()
        assert open_arenas() == 0
        assert len(_descriptors()) == before

    run(story)
