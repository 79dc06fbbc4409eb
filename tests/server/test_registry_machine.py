"""Any order of registrations, deployments, changes and removals, against a dict of what is served.

Workers are tasks that speak the wire protocol at the far end of real sockets, so that nothing of
the server is replaced but the process itself.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flambeau import wire
from flambeau.child import Launch
from flambeau.deployment import DeployEvent, DeployStep
from flambeau.devices import DeviceCycle
from flambeau.errors import (
    BadParameter,
    Conflict,
    DefaultVersionInUse,
    FlambeauError,
    LoadFailed,
    ModelNotFound,
    ModelVersionNotFound,
    NoWorker,
)
from flambeau.manifest import Manifest
from flambeau.memory import Memory
from flambeau.messages import (
    BatchDone,
    FailureKind,
    Loaded,
    LoadModel,
    LoadStage,
    Reply,
    RunBatch,
    ShareMemory,
    ToFront,
)
from flambeau.messages import LoadFailed as LoadFailedMessage
from flambeau.metrics import Metrics
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host, Package, VersionState
from flambeau.registry import Registration, Registry
from flambeau.testing import make_request

T = TypeVar("T")

BROKEN = "broken"  # in a version: its workers cannot load it
MODELS = st.sampled_from(["m", "n"])
NUMBERS = ("1", "2", "3", f"4-{BROKEN}")
VERSIONS = st.sampled_from(NUMBERS)
_NO_PROCESS = 1 << 30  # above the largest id of a process: ending it ends nobody
_PATIENCE_S = 30.0


class StandIn:
    """A worker without a process; answers with its version."""

    def __init__(self, theirs: socket.socket) -> None:
        self.pid = _NO_PROCESS
        self.stdout, self.stderr = asyncio.StreamReader(), asyncio.StreamReader()
        self._version = ""
        self._life = asyncio.ensure_future(self._live(theirs))

    async def wait(self) -> int:
        return await asyncio.shield(self._life)

    @property
    def has_ended(self) -> bool:
        return self._life.done()

    async def _live(self, theirs: socket.socket) -> int:
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        try:
            while True:
                answer = self._answer(await self._payload(reader))
                if answer is not None:
                    writer.write(wire.encode(answer))
                if isinstance(answer, LoadFailedMessage):
                    await writer.drain()
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the front has hung up
        finally:
            writer.close()
            self.stdout.feed_eof()
            self.stderr.feed_eof()
        return 0

    @staticmethod
    async def _payload(reader: asyncio.StreamReader) -> bytes:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(8), "little"))

    def _answer(self, payload: bytes) -> ToFront | None:
        match wire.decode_to_worker(payload):
            case ShareMemory():
                return None  # bodies here are too small for it
            case LoadModel(model_version=version):
                self._version = version
                if BROKEN in version:
                    kind = FailureKind.HANDLER_FAILED
                    return LoadFailedMessage(LoadStage.LOADING, kind, "it is broken")
                return Loaded(load_s=0.0, warm_up_s=0.0, check="")
            case RunBatch(batch_id=batch_id, requests=requests):
                body = memoryview(self._version.encode())
                reply = Reply(status=200, phrase="", headers=[], body=body)
                return BatchDone(batch_id, [reply] * len(requests), handler_s=0.0)
            case other:
                raise AssertionError(f"nobody sends a worker {other}")


@dataclass
class Served:
    """What the model knows of one registered model: ready workers by version, oldest first."""

    default: str
    workers: dict[str, int] = field(default_factory=dict)


class Changes(RuleBasedStateMachine):
    """The registry beside a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.started: list[StandIn] = []
        self.entered: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.expected: dict[str, Served] = {}
        self.memory = Memory()
        self.registry = self.run(self._empty())

    async def _empty(self) -> Registry:
        host = Host(
            devices=DeviceCycle(0),
            environment={},
            max_response_bytes=1000,
            start_process=self._start,
        )
        registry = Registry(
            host=host,
            metrics=Metrics(),
            drain_timeout_s=_PATIENCE_S,
            discard=self._discard,
            memory=self.memory,
        )
        registry.startup_done()
        return registry

    async def _start(self, launch: Launch, /) -> tuple[StandIn, socket.socket]:
        assert launch.environment == {}
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)  # noqa: FBT003  # socket's own signature
        self.started.append(StandIn(theirs))
        return self.started[-1], ours

    async def _discard(self, package: Package) -> None:
        self.discarded[package.url] += 1

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, _PATIENCE_S))

    async def attempt(self, work: Coroutine[Any, Any, T]) -> T | FlambeauError:
        try:
            return await work
        except FlambeauError as error:
            return error

    def served(self, model: str, version: str | None) -> tuple[Served, str] | None:
        entry = self.expected.get(model)
        number = entry.default if entry and version is None else version
        return (entry, number) if entry and number and number in entry.workers else None

    def likely(self, model: str) -> st.SearchStrategy[str]:
        """Rather a version that is there."""
        there = list(self.expected[model].workers) if model in self.expected else []
        return st.sampled_from([*there, *there, *NUMBERS])

    def registration(self, model: str, version: str, *, workers: int) -> Registration:
        url = f"{model}-{version}-{sum(self.entered.values())}.mar"
        manifest = Manifest(model_name=model, model_version=version)
        package = Package(url=url, digest="", model_dir=Path(), manifest=manifest)
        return Registration(
            package=package, settings=ModelSettings(min_workers=workers, max_workers=workers)
        )

    @rule(model=MODELS, version=VERSIONS, workers=st.integers(0, 2))
    def register(self, model: str, version: str, workers: int) -> None:
        registration = self.registration(model, version, workers=workers)

        async def work() -> object:
            entered = self.registry.register(registration)
            self.entered[registration.package.url] += 1
            await self.registry.wait_loaded(entered)
            return entered

        outcome = self.run(self.attempt(work()))
        if self.served(model, version):
            assert isinstance(outcome, Conflict)
        elif workers and BROKEN in version:
            assert isinstance(outcome, LoadFailed)
        else:
            assert not isinstance(outcome, FlambeauError)
            self.expected.setdefault(model, Served(version)).workers[version] = workers

    @rule(model=MODELS, version=VERSIONS)
    def deploy(self, model: str, version: str) -> None:
        registration = self.registration(model, version, workers=0)
        events: list[DeployEvent] = []

        async def work() -> None:
            task = self.registry.deploy(registration, on_event=events.append)
            self.entered[registration.package.url] += 1
            await task

        outcome = self.run(self.attempt(work()))
        if self.served(model, version):
            assert isinstance(outcome, Conflict)
            assert not events
            return
        assert outcome is None
        assert [event.is_last for event in events] == [False] * (len(events) - 1) + [True]
        if BROKEN in version:
            assert events[-1].step is DeployStep.FAILED
            return
        assert events[-1].step is DeployStep.DONE
        entry = self.expected.setdefault(model, Served(version))
        old = entry.default if entry.workers else version
        like = self.registry.resolve(model).settings
        entry.workers[version] = like.min_workers
        assert like.min_workers >= 1
        entry.default = version
        if old != version:
            del entry.workers[old]

    @rule(data=st.data(), model=MODELS)
    def set_default(self, data: st.DataObject, model: str) -> None:
        version = data.draw(self.likely(model))

        async def work() -> None:
            await self.registry.set_default(model, version)

        outcome = self.run(self.attempt(work()))
        found = self.served(model, version)
        if model not in self.expected:
            assert isinstance(outcome, ModelNotFound)
        elif found is None:
            assert isinstance(outcome, ModelVersionNotFound)
        elif not found[0].workers[version] and found[0].default != version:
            assert isinstance(outcome, Conflict)
        else:
            assert outcome is None
            found[0].default = version

    @rule(data=st.data(), model=MODELS, low=st.integers(-1, 3), more=st.integers(-1, 1))
    def scale(self, data: st.DataObject, model: str, low: int, more: int) -> None:
        version = data.draw(st.none() | self.likely(model))

        async def work() -> None:
            await (
                await self.registry.scale(self.registry.resolve(model, version), low, low + more)
            )

        outcome = self.run(self.attempt(work()))
        found = self.served(model, version)
        if found is None:
            assert isinstance(outcome, ModelNotFound | ModelVersionNotFound)
            return
        entry, number = found
        if low < 0 or more < 0:
            assert isinstance(outcome, BadParameter)
        elif low > 0 and BROKEN in number:
            assert isinstance(outcome, LoadFailed)
        else:
            assert outcome is None
            entry.workers[number] = min(low + more, max(low, entry.workers[number]))

    @rule(data=st.data(), model=MODELS)
    def unregister(self, data: st.DataObject, model: str) -> None:
        version = data.draw(st.none() | self.likely(model))
        outcome = self.run(self.attempt(self.registry.unregister(model, version)))
        found = self.served(model, version)
        if found is None:
            assert isinstance(outcome, ModelNotFound | ModelVersionNotFound)
            return
        entry, number = found
        if number == entry.default and len(entry.workers) > 1:
            assert isinstance(outcome, DefaultVersionInUse)
            return
        assert outcome is None
        del entry.workers[number]
        if not entry.workers:
            del self.expected[model]

    @rule(data=st.data(), model=MODELS)
    def ask(self, data: st.DataObject, model: str) -> None:
        version = data.draw(st.none() | self.likely(model))

        async def work() -> str:
            asked = self.registry.resolve(model, version)
            return bytes((await asked.submit(make_request()).reply).body).decode()

        outcome = self.run(self.attempt(work()))
        found = self.served(model, version)
        if found is None:
            assert isinstance(outcome, ModelNotFound | ModelVersionNotFound)
        elif found[0].workers[found[1]]:
            assert outcome == found[1]
        else:
            assert isinstance(outcome, NoWorker)

    @invariant()
    def exactly_what_is_expected_is_served(self) -> None:
        defaults = {each.model: each.version for each in self.registry.defaults()}
        assert defaults == {model: entry.default for model, entry in self.expected.items()}
        for model, entry in self.expected.items():
            versions = self.registry.versions(model)
            assert [each.version for each in versions] == list(entry.workers)
            for each in versions:
                ready = [slot for slot in each.slots if slot.process is not None]
                assert len(ready) == entry.workers[each.version]
                assert (each.state is VersionState.READY) == bool(ready)
                assert each.num_unanswered == 0
        living = sum(not each.has_ended for each in self.started)
        assert living == sum(sum(entry.workers.values()) for entry in self.expected.values())

    @invariant()
    def the_next_start_would_serve_the_same(self) -> None:
        remembered = {
            model: (entry.default, [each.version for each in entry.versions])
            for model, entry in self.memory.desired.models.items()
        }
        assert remembered == {
            model: (entry.default, list(entry.workers)) for model, entry in self.expected.items()
        }

    @invariant()
    def what_is_gone_was_given_back_once(self) -> None:
        kept = {v.package.url for model in self.expected for v in self.registry.versions(model)}
        assert self.discarded + Counter(kept) == self.entered

    def teardown(self) -> None:
        assert self.run(self.registry.close()) == 0
        assert self.discarded == self.entered
        assert all(each.has_ended for each in self.started)
        self.loop.close()


TestChanges = pytest.mark.slow(Changes.TestCase)
TestChanges.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _alone() -> None:
    """Each removal collects garbage: not of all that other tests have imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of changes: their log would be most of the test."""
    caplog.set_level(logging.CRITICAL)
