"""A compiled model: made once by `flambeau optimize`, then found by starts and forked workers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

import flambeau
from flambeau.archive import digest, unpack
from flambeau.child import Launch, SharedModel
from flambeau.cli import main
from flambeau.handler import BaseHandler
from flambeau.instance import ModelInstance
from flambeau.loading import load_handler
from flambeau.messages import LoadModel, OptimizeLevel, OptimizeWish, Reply
from flambeau.optimizing.choice import Choice
from flambeau.optimizing.compiled import CompiledModel
from flambeau.optimizing.machine import describe_machine
from flambeau.optimizing.remembered import RememberedChoice
from flambeau.process import WorkerProcess
from flambeau.templates import Templates
from flambeau.testing import make_request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a compiler runs once

MAX_BATCH_SIZE = 3
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Compiled:
    """What one run of the command left.

    Attributes:
        archive: The archive.
        model_dir: Its content.
        cache: The user's cache.
        said: What the command printed.
    """

    archive: Path
    model_dir: Path
    cache: Path
    said: str

    @property
    def library(self) -> Path:
        (path,) = (self.cache / "flambeau" / "compiled").glob("*.so")
        return path

    def load_message(self, *, num_threads: int = 1) -> LoadModel:
        wish = OptimizeWish(level=OptimizeLevel.SAFE, archive_digest=digest(self.archive))
        return LoadModel(
            *("mine", "1", str(self.model_dir), None, "cpu", MAX_BATCH_SIZE, num_threads),
            *(1_000, "0.1"),
            optimize=wish,
        )

    def choose(self) -> None:
        """Let the compiled form be the one that was chosen, however fast it is here."""
        memory = RememberedChoice(
            *(flambeau.__version__, digest(self.archive), describe_machine(CPU), "safe"),
            MAX_BATCH_SIZE,
        )
        memory.write(Choice(candidate="compiled", speed_up=2.0))

    def start(self) -> ModelInstance:
        instance = ModelInstance.load(self.load_message(), load_entry_point=load_handler)
        instance.warm_up()
        instance.check()
        return instance


def ignore(stream: str, line: str) -> None:
    """What workers print is not looked at."""


class Waves(torch.nn.Module):
    """What a compiler makes one loop of, in little time: it would try several for a product."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.scale = torch.nn.Parameter(torch.randn(12, generator=generator))
        self.scores = torch.nn.Parameter(torch.randn(4, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = (x * self.scale).tanh().sum(1, keepdim=True) * self.scores
        return scores


def make_model() -> Waves:
    return Waves().eval()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Generator[Compiled]:
    root = tmp_path_factory.mktemp("compiled")
    archive, cache = root / "mine.mar", root / "cache"
    inputs = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    config = {"batchSize": MAX_BATCH_SIZE}
    flambeau.export(
        make_model(), inputs, name="mine", version="1", path=archive, model_config=config
    )
    model_dir = root / "model"
    unpack(archive, model_dir)
    with pytest.MonkeyPatch.context() as patch, (root / "said").open("w+") as said:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr(sys, "stdout", said)
        assert main(["optimize", str(archive), "--device", "cpu"]) == 0
        said.seek(0)
        yield Compiled(archive, model_dir, cache, said.read())


@pytest.fixture
def with_cache(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled.cache))
    compiled.choose()
    return compiled


def test_the_command_tells_about_every_form(compiled: Compiled) -> None:
    assert "refused" not in compiled.said
    for form in ("compiled ", "frozen and fused ", "as exported "):
        assert any(line.startswith(form) for line in compiled.said.splitlines())
    assert "for batches of up to 3 on cpu" in compiled.said
    assert compiled.said.splitlines()[-1].startswith("chosen in ")


def test_a_library_is_nobody_elses(compiled: Compiled) -> None:
    assert compiled.library.stat().st_mode & 0o777 == 0o600
    assert compiled.library.parent.stat().st_mode & 0o777 == 0o700


def test_a_start_takes_what_was_compiled_before(with_cache: Compiled) -> None:
    instance = with_cache.start()
    assert instance.optimization.startswith("compiled, 2.00 times as fast as exported")
    assert instance.optimization.endswith("; as measured before")
    handler = instance.handler
    assert isinstance(handler, BaseHandler)
    call = handler.model_to_call
    assert isinstance(call, CompiledModel)
    for batch_size in (1, 2, 3, 4, 9):  # the model itself answers what is too large
        inputs = torch.randn(batch_size, 12)
        with torch.no_grad():
            torch.testing.assert_close(handler.inference(inputs), make_model()(inputs))
            torch.testing.assert_close(call(inputs.T.contiguous().T), make_model()(inputs))
    with pytest.raises(RuntimeError):
        call(torch.randn(2, 11))  # as the model says, not what lies beyond the end
    assert call(torch.randn(2, 12).double()).dtype is torch.float64


def test_forked_workers_compute_the_same_with_the_threads_they_are_told(
    with_cache: Compiled,
) -> None:
    command = (Path(sys.executable), "flambeau.worker")
    environment = {**os.environ}
    inputs = torch.randn(30, 12)
    with torch.no_grad():
        expected = make_model()(inputs)

    async def ask(worker: WorkerProcess) -> list[object]:
        bodies = [row.numpy().tobytes() for row in inputs]
        batches = [
            await worker.run([make_request(body) for body in bodies[start : start + 3]])
            for start in range(0, len(bodies), 3)
        ]
        replies = [result for batch in batches for result in batch.results]
        return [json.loads(bytes(r.body)) for r in replies if isinstance(r, Reply)]

    async def story() -> None:
        launch = Launch(command=command, environment=environment)
        async with AsyncExitStack() as stack:
            templates = await stack.enter_async_context(Templates(launch, is_on=True))
            shared = SharedModel(load=with_cache.load_message(), only_builtin=True, timeout_s=60)
            workers: list[WorkerProcess] = []
            for num_threads in (1, 3):
                worker = await WorkerProcess.start(
                    with_cache.load_message(num_threads=num_threads),
                    environment=environment,
                    command=command,
                    start_process=templates.start_worker,
                    shared=shared,
                    response_timeout_s=60,
                    on_output=ignore,
                )
                workers.append(worker)
                loaded = await worker.wait_ready(timeout_s=60, on_progress=lambda _: None)
                assert loaded.optimization.startswith("compiled, ")
                assert f"{num_threads} thread" in loaded.optimization
            for answers in await asyncio.gather(*map(ask, workers)):
                torch.testing.assert_close(torch.tensor(answers), expected)
            threads = [psutil.Process(worker.pid).num_threads() for worker in workers]
            assert threads[0] == 1
            templates.forget(shared)
            await asyncio.gather(*(worker.kill() for worker in workers))

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_damaged_library_is_deleted_and_another_form_is_chosen(with_cache: Compiled) -> None:
    content = with_cache.library.read_bytes()
    path = with_cache.library
    path.unlink()  # this process has it loaded
    path.write_bytes(content[:-1000])
    path.chmod(0o600)
    try:
        instance = with_cache.start()
        assert "compiled" not in instance.optimization
        assert "before" not in instance.optimization
        assert not path.exists()
    finally:
        with_cache.choose()


def test_what_cannot_be_optimised_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model()
    flambeau.export(
        *(model, torch.randn(2, 12)),
        name="m",
        version="1",
        path=tmp_path / "m.mar",
        model_config={"optimize": "off"},
    )
    store = ["--model-store", str(tmp_path)]
    for words, said in (
        (["none", *store], "'none' is neither a file nor in "),
        (["m", *store], "says `optimize: off`"),
        (["m", "--level", "safe", "--max-batch-size", "0", *store], "--max-batch-size is 0"),
        (["m", "--level", "safe", "--device", "cuda:99", *store], "--device is 'cuda:99'"),
    ):
        assert main(["optimize", *words]) == 2
        assert said in capsys.readouterr().err
