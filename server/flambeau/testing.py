"""Stand-ins and builders for tests; shipped, because handlers want tests too.

archive = make_archive(tmp_path, name="echo", handler="def handle(data, context): ...")
worker = FakeWorker()
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import signal
import sqlite3
import textwrap
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TypeVar

from flambeau.archive import write_archive
from flambeau.disk import Disk
from flambeau.manifest import Manifest
from flambeau.messages import BatchDone, Chunk, Failure, InferenceRequest, Input, Reply

_T = TypeVar("_T")


def make_archive(
    directory: Path,
    *,
    name: str,
    handler: str,
    version: str = "1.0",
    model_yaml: str | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """An archive whose handler is the given source text.

    Args:
        directory: Where `<name>-<version>.mar` is written.
        name: The model's name.
        handler: Python source of a function-style or class-style handler; indentation that all
            lines share is removed.
        version: The model's version.
        model_yaml: Text of its `model-config.yaml`.
        files: More files at the archive's root, by name.
    """
    content: dict[str, Path | bytes] = {
        **(files or {}),
        "handler.py": textwrap.dedent(handler).encode(),
    }
    if model_yaml is not None:
        content["model-config.yaml"] = textwrap.dedent(model_yaml).encode()
    manifest = Manifest(
        model_name=name,
        model_version=version,
        handler="handler.py",
        config_file="model-config.yaml" if model_yaml is not None else None,
    )
    path = directory / f"{name}-{version}.mar"
    write_archive(path, manifest=manifest, files=content)
    return path


def make_request(body: bytes = b"", *, request_id: str = "request") -> InferenceRequest:
    """A request with one input named `body`."""
    return InferenceRequest(
        request_id=request_id,
        headers=[],
        inputs=[Input(name="body", content_type=None, body=memoryview(body))],
    )


def echo(request: InferenceRequest) -> Reply:
    """The answer that is the request's first input."""
    return Reply(status=200, phrase="", headers=[], body=request.inputs[0].body)


class FakeWorker:
    """A worker in this process: takes batches, and answers when told to.

    Attributes:
        batches: Every batch it was given, oldest first.
    """

    def __init__(
        self, answer: Callable[[InferenceRequest], Reply | Failure] = echo, *, held: bool = False
    ) -> None:
        """A worker that answers each request with `answer`.

        Args:
            answer: Called once per request.
            held: Keep batches until `answer_next` or `fail_next`, instead of answering at once.
        """
        self.batches: list[list[InferenceRequest]] = []
        self._answer = answer
        self._held = held
        self._gates: list[asyncio.Future[None]] = []

    def run(
        self,
        requests: Sequence[InferenceRequest],
        *,
        on_chunk: Callable[[Chunk], None] = lambda _: None,  # noqa: ARG002  # it streams nothing
    ) -> asyncio.Future[BatchDone]:
        self.batches.append(list(requests))
        return asyncio.ensure_future(self._run(requests, batch_id=len(self.batches)))

    async def _run(self, requests: Sequence[InferenceRequest], *, batch_id: int) -> BatchDone:
        if self._held:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._gates.append(gate)
            try:
                await gate
            except asyncio.CancelledError:
                self._gates.remove(gate)
                raise
        results = [self._answer(request) for request in requests]
        return BatchDone(batch_id=batch_id, results=results, handler_s=0.0)

    def answer_next(self) -> None:
        """Answer the oldest batch that is held."""
        self._gates.pop(0).set_result(None)

    def fail_next(self, error: Exception) -> None:
        """Fail the oldest batch that is held with `error`."""
        self._gates.pop(0).set_exception(error)


class Fault(Enum):
    """What a step of a `FaultyDisk` does instead of its work, or after it."""

    NO_SPACE = errno.ENOSPC
    IO_ERROR = errno.EIO
    INTERRUPTED = errno.EINTR
    KILL = 0  # the process ends there


class FaultyDisk(Disk):
    """A disk whose n-th step fails, once or from then on.

    for number in itertools.count(1):
        disk = FaultyDisk(number, Fault.NO_SPACE)
        save(disk=disk)  # must be whole or refused
        if not disk.has_failed:
            break

    Attributes:
        steps: What has been asked of it, oldest first.
        has_failed: Whether the n-th step has come.
    """

    def __init__(
        self, number: int, fault: Fault, *, from_then_on: bool = False, after: bool = False
    ) -> None:
        """Fail one step.

        Args:
            number: Which one, from 1.
            fault: How.
            from_then_on: Fail all later steps, too; not for INTERRUPTED, after which Python writes
                again, and again.
            after: Do the work first, and fail then: nobody is told that it is done.
        """
        assert not (from_then_on and fault is Fault.INTERRUPTED)
        self.steps: list[str] = []
        self.has_failed = False
        self._number = number
        self._fault = fault
        self._from_then_on = from_then_on
        self._after = after

    def at(self, step: str, work: Callable[[], _T]) -> _T:
        self.steps.append(step)
        place = len(self.steps)
        if not (place == self._number or (self._from_then_on and place > self._number)):
            return work()
        self.has_failed = True
        try:
            done = work() if self._after else None
        finally:
            if self._fault is Fault.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(done, sqlite3.Connection):
            done.close()
        if isinstance(done, io.IOBase):
            done.close()
        if step == "sqlite":
            raise sqlite3.OperationalError(_SQLITE_TEXTS[self._fault])
        raise OSError(self._fault.value, os.strerror(self._fault.value))


_SQLITE_TEXTS = {
    Fault.NO_SPACE: "database or disk is full",
    Fault.IO_ERROR: "disk I/O error",
    Fault.INTERRUPTED: "interrupted",
}
