"""Real templates, and the workers that are forked from them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import pytest
import torch

import flambeau
from flambeau.archive import unpack, write_archive
from flambeau.child import Launch, SharedModel, start_fresh
from flambeau.errors import WorkerDied
from flambeau.manifest import Manifest
from flambeau.messages import Loaded, LoadModel, OptimizeLevel, OptimizeWish, Reply
from flambeau.process import WorkerProcess
from flambeau.signature import SIGNATURE_PATH, Signature, TensorSpec
from flambeau.templates import Templates
from flambeau.testing import make_archive, make_request

pytestmark = pytest.mark.slow  # a template imports torch

T = TypeVar("T")

COMMAND = (Path(sys.executable), "flambeau.worker")
ENVIRONMENT = {**os.environ, "OF_THE_WORKER": "yes"}

OBEDIENT = """
    import os, random, signal, sys, threading, time
    import numpy as np
    import torch

    loaded_by = os.getpid()

    def handle(data, context):
        return data and [answer(row["body"].decode()) for row in data]

    def answer(order):
        if order == "die":
            os._exit(7)
        if order == "multiply":
            square = torch.randn(500, 500, generator=torch.Generator().manual_seed(0))
            array = square.numpy()
            return [torch.get_num_threads(), (square @ square).sum().item(),
                    float((array @ array).sum())]
        if order == "draw":
            return [random.random(), np.random.rand(), torch.rand(1).item()]
        if order == "who":
            return [os.getpid(), loaded_by]
        links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
        files = [os.path.realpath(link) for link in links if os.path.exists(link)]
        return {
            "words": [word for word in sys.argv if not word.isdigit()],
            "command": [word for word in open("/proc/self/cmdline").read().strip("\\0").split("\\0")
                        if not word.isdigit()],
            "environment": sorted(os.environ.items()),
            "directory": os.getcwd(),
            "path": sys.path,
            "session": os.getsid(0) - os.getpid(),
            "group": os.getpgid(0) - os.getpid(),
            "parent": os.getppid(),
            "files": sorted(file.rpartition("/")[2].partition(":")[0] for file in files),
            "threads": threading.active_count(),
            "interrupt": signal.getsignal(signal.SIGINT).name,
            "main": sys.modules["__main__"].__file__,
        }
"""

_BIG_MODEL = """
import torch

class Big(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000) for _ in range(10)))

    def forward(self, numbers):
        return self.layers(numbers).sum(dim=1)
"""
_BIG_BYTES = 10 * 1000 * 1000 * 4


def ignore(stream: str, line: str) -> None:
    """What workers print is not looked at."""


class Home:
    """An event loop with a template, for many tests.

    Attributes:
        loaded: What the latest worker said when it was ready.
    """

    loaded: Loaded

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.templates = Templates(Launch(command=COMMAND, environment=ENVIRONMENT), is_on=True)

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(story, 90))

    async def start(
        self, load: LoadModel, *, fresh: bool = False, shared: SharedModel | None = None
    ) -> WorkerProcess:
        """A worker that is ready."""
        process = await WorkerProcess.start(
            load,
            environment=ENVIRONMENT,
            command=COMMAND,
            start_process=start_fresh if fresh else self.templates.start_worker,
            shared=shared,
            response_timeout_s=60,
            on_output=ignore,
        )
        self.loaded = await process.wait_ready(timeout_s=60, on_progress=lambda _: None)
        return process

    @asynccontextmanager
    async def sharing(self, load: LoadModel, *, only_builtin: bool) -> AsyncGenerator[SharedModel]:
        """A model that workers share meanwhile."""
        shared = SharedModel(load=load, only_builtin=only_builtin, timeout_s=60)
        yield shared
        self.templates.forget(shared)
        await wait_until(lambda: len(self.template_processes()) == 1)

    def template_processes(self) -> list[psutil.Process]:
        """The processes that workers are forked from."""
        children = psutil.Process().children()
        return [child for child in children if _is_template(child)]


def _is_template(process: psutil.Process) -> bool:
    try:
        return "--template" in process.cmdline()
    except psutil.NoSuchProcess:  # or a zombie
        return False


@pytest.fixture(scope="module")
def home() -> Generator[Home]:
    others = set(psutil.Process().children(recursive=True))  # a server of other tests, say
    home = Home()
    home.run(home.templates.__aenter__())
    yield home
    home.run(home.templates.__aexit__(None, None, None))
    home.loop.close()
    assert not set(psutil.Process().children(recursive=True)) - others


def unpacked(archive: Path) -> LoadModel:
    model_dir = archive.with_suffix("")
    model_dir.mkdir()
    unpack(archive, model_dir)
    return LoadModel(
        model_name="m",
        model_version="1.0",
        model_dir=str(model_dir),
        handler=None,
        device="cpu",
        max_batch_size=8,
        num_threads=2,
        max_response_bytes=1 << 20,
        server_version="0",
    )


@pytest.fixture
def obedient(tmp_path: Path) -> LoadModel:
    return unpacked(make_archive(tmp_path, name="m", handler=OBEDIENT))


async def ask(process: WorkerProcess, order: str | bytes) -> Any:  # noqa: ANN401  # the answer
    body = order.encode() if isinstance(order, str) else order
    (result,) = (await process.run([make_request(body)])).results
    assert isinstance(result, Reply), result
    return json.loads(bytes(result.body))


async def wait_until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


def test_a_forked_worker_finds_what_a_fresh_one_finds(home: Home, obedient: LoadModel) -> None:
    async def story() -> None:
        fresh, forked = await home.start(obedient, fresh=True), await home.start(obedient)
        for order in ("tell", "multiply"):
            assert await ask(forked, order) == await ask(fresh, order)
        assert (await ask(forked, "tell"))["parent"] == os.getpid()
        await asyncio.gather(fresh.kill(), forked.kill())

    home.run(story())


def test_workers_compute_the_same_side_by_side(home: Home, obedient: LoadModel) -> None:
    async def story() -> None:
        workers = await asyncio.gather(*(home.start(obedient) for _ in range(4)))
        first = await ask(workers[0], "multiply")
        for _ in range(3):
            answers = await asyncio.gather(*(ask(worker, "multiply") for worker in workers))
            assert all(answer == first for answer in answers)
        await asyncio.gather(*(worker.stop(grace_s=30) for worker in workers))
        assert {await worker.wait_exited() for worker in workers} == {"exit code 0"}

    home.run(story())


def test_workers_do_not_draw_the_same_random_numbers(home: Home, obedient: LoadModel) -> None:
    async def story() -> None:
        async with home.sharing(obedient, only_builtin=False) as shared:
            workers = [
                await home.start(obedient, shared=each) for each in (None, None, shared, shared)
            ]
            draws = [tuple(await ask(worker, "draw")) for worker in workers]
            for stream in zip(*draws, strict=True):
                assert len(set(stream)) == len(workers)
            await asyncio.gather(*(worker.kill() for worker in workers))

    home.run(story())


def test_how_a_forked_worker_ended_is_told(home: Home, obedient: LoadModel) -> None:
    async def story() -> None:
        process = await home.start(obedient)
        with pytest.raises(WorkerDied):
            await ask(process, "die")
        assert await process.wait_exited() == "exit code 7"
        process = await home.start(obedient)
        os.kill(process.pid, signal.SIGTERM)
        assert await process.wait_exited() == "killed by SIGTERM"
        assert not psutil.pid_exists(process.pid)

    home.run(story())


def test_a_worker_that_nobody_waits_for_any_more_ends(home: Home, obedient: LoadModel) -> None:
    async def story() -> None:
        before = set(psutil.Process().children())
        starts = [asyncio.ensure_future(home.start(obedient)) for _ in range(3)]
        await asyncio.sleep(0)
        for start in starts:
            start.cancel()
        await asyncio.wait(starts)
        process = await home.start(obedient)
        assert await ask(process, "draw")
        await process.kill()
        await wait_until(lambda: set(psutil.Process().children()) <= before)

    home.run(story())


def test_a_template_that_is_killed_takes_no_worker_along_and_is_replaced(
    home: Home, obedient: LoadModel
) -> None:
    async def story() -> None:
        old = await home.start(obedient)
        (template,) = home.template_processes()
        template.kill()
        new = await home.start(obedient)
        assert await ask(old, "multiply") == await ask(new, "multiply")
        await wait_until(lambda: template not in home.template_processes() != [])
        await asyncio.gather(old.kill(), new.kill())

    home.run(story())


def test_workers_of_a_model_share_its_weights(home: Home, tmp_path: Path) -> None:
    signature = Signature(
        inputs=(TensorSpec(name="numbers", dtype="float32", shape=(None, 1000)),),
        outputs=(TensorSpec(name="output_0", dtype="float32", shape=(None,)),),
    )
    files = {"model.py": _BIG_MODEL.encode(), SIGNATURE_PATH: signature.to_json().encode()}
    manifest = Manifest(model_name="m", handler="base_handler", model_file="model.py")
    write_archive(tmp_path / "m.mar", manifest=manifest, files=dict(files))
    load = unpacked(tmp_path / "m.mar")

    async def story() -> None:
        async with home.sharing(load, only_builtin=True) as shared:
            numbers = bytes(4000)
            workers = [
                await home.start(load, shared=each) for each in (None, shared, shared, shared)
            ]
            answers = [await ask(worker, numbers) for worker in workers]
            assert answers == answers[:1] * 4
            own = [psutil.Process(worker.pid).memory_full_info().uss for worker in workers]
            assert own[0] > _BIG_BYTES
            assert max(own[1:]) < own[0] - 0.8 * _BIG_BYTES
            os.kill(workers[3].pid, signal.SIGKILL)
            assert await workers[3].wait_exited() == "killed by SIGKILL"
            assert await ask(workers[2], numbers) == answers[0]
            home.templates.forget(shared)
            await wait_until(lambda: len(home.template_processes()) == 1)
            assert await ask(workers[2], numbers) == answers[0]
            await asyncio.gather(*(worker.kill() for worker in workers))

    home.run(story())


def test_what_a_template_has_warmed_up_computes_in_every_worker(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.Conv2d(32, 8, 3)
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(288, 4)).eval()
    images = torch.randn(4, 3, 10, 10)
    flambeau.export(model, images, name="m", version="1", path=tmp_path / "m.mar")
    wish = OptimizeWish(level=OptimizeLevel.SAFE, choose_threads=False)
    load = msgspec.structs.replace(unpacked(tmp_path / "m.mar"), optimize=wish)

    async def story() -> None:
        async with home.sharing(load, only_builtin=True) as shared:
            workers: list[WorkerProcess] = []
            for num_threads in (1, 3, 2):
                mine = msgspec.structs.replace(load, num_threads=num_threads)
                workers.append(await home.start(mine, shared=shared))
                loaded = home.loaded
                assert loaded.check.startswith("4 samples, max abs error")
                assert f"{num_threads} thread" in loaded.optimization
            assert len(home.template_processes()) == 2  # none loaded it by itself
            orders = [image.numpy().tobytes() for image in images] * 5
            asked = [
                asyncio.gather(*(ask(worker, order) for order in orders)) for worker in workers
            ]
            with torch.no_grad():
                expected = model(images).repeat(5, 1)
            for answers in await asyncio.gather(*asked):
                torch.testing.assert_close(torch.tensor(answers), expected)
            await asyncio.gather(*(worker.kill() for worker in workers))

    home.run(story())


_LEFT_BEHIND = {
    "nothing": "",
    "a thread": "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "an open file": "kept = open(__file__)",
    "a process": "import subprocess; kept = subprocess.Popen(['sleep', '600'])",
    "an error": "assert loaded_by == 0, 'on purpose'",
}


@pytest.mark.parametrize("left", _LEFT_BEHIND)
def test_only_what_survives_a_fork_is_shared(home: Home, tmp_path: Path, left: str) -> None:
    source = OBEDIENT.replace("    loaded_by = os.getpid()", "    loaded_by = os.getpid()\n    #")
    source = source.replace("#", _LEFT_BEHIND[left], 1).replace(
        "loaded_by == 0", "'--template' not in sys.argv"
    )
    load = unpacked(make_archive(tmp_path, name="m", handler=source))

    async def story() -> None:
        async with home.sharing(load, only_builtin=False) as shared:
            process = await home.start(load, shared=shared)
            pid, loaded_by = await ask(process, "who")
            assert (pid != loaded_by) is (left == "nothing")
            await process.kill()

    home.run(story())


def test_an_archives_own_handler_is_shared_only_if_asked_for(
    home: Home, obedient: LoadModel
) -> None:
    async def story() -> None:
        async with home.sharing(obedient, only_builtin=True) as shared:
            process = await home.start(obedient, shared=shared)
            pid, loaded_by = await ask(process, "who")
            assert pid == loaded_by
            await process.kill()

    home.run(story())


def test_a_worker_with_another_environment_is_a_fresh_process(
    home: Home, obedient: LoadModel
) -> None:
    async def story() -> None:
        launch = Launch(command=COMMAND, environment=ENVIRONMENT | {"OMP_NUM_THREADS": "1"})
        child, sock = await home.templates.start_worker(launch)
        with sock:
            assert isinstance(child, asyncio.subprocess.Process)
        await child.wait()

    home.run(story())


def test_each_worker_has_the_threads_it_is_told(home: Home, obedient: LoadModel) -> None:
    async def story() -> None:
        for num_threads in (1, 3):
            load = msgspec.structs.replace(obedient, num_threads=num_threads)
            async with home.sharing(obedient, only_builtin=False) as shared:
                process = await home.start(load, shared=shared)
                assert (await ask(process, "multiply"))[0] == num_threads
                await process.kill()

    home.run(story())
