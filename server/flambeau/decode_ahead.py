"""Decoding the next batch in a second thread while the model computes this one.

For built-in handlers whose decoding takes long and lets other threads run meanwhile, such as
Pillow's of images. Others' decoding is code of their authors, or holds the interpreter's lock,
which a model of many small operations would then wait for. One batch ahead, no more: the order
stays.

What is decoded ahead sees the headers of its own batch, by a copy of the handler with a context of
its own. When it fails for any reason, the batch comes without it and is decoded again in its turn,
where the failure belongs to it. On a CUDA device, what is decoded is sent there at once.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from flambeau.messages import BatchMode, RunBatch
from flambeau.sample_handler import SampleHandler
from flambeau.side_copies import SideCopies

if TYPE_CHECKING:
    from collections.abc import Callable

    from flambeau.codec import Row
    from flambeau.context import Context
    from flambeau.messages import InferenceRequest, LoadModel, ToWorker
    from flambeau.sample_handler import Prepared

WORTH_S: Final = 0.003  # of decoding a batch: ten times what handing it over may cost


class Source(Protocol):
    """Where messages come from."""

    def receive(self) -> ToWorker | None:
        """The next message, however long it takes; None when the front has hung up."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Coming:
    """What came next.

    Attributes:
        batch: None when the front has hung up.
        prepared: What it holds, decoded; None where it is to be decoded in its turn.
    """

    batch: RunBatch | None
    prepared: Prepared | None = None


class DecodeAhead:
    """Receives batches and decodes them; used by one thread at a time."""

    def __init__(
        self,
        handler: SampleHandler,
        context: Context,
        *,
        decode: Callable[[InferenceRequest], Row],
    ) -> None:
        # for the life of the worker
        self._handler = copy.copy(handler)
        self._context = copy.copy(context)
        self._context.metrics = None  # those of the running batch are none of its business
        self._decode = decode
        device = handler.device
        self._copies = SideCopies(device) if device.type == "cuda" else None

    @classmethod
    def of(
        cls,
        handler: object,
        context: Context,
        *,
        load: LoadModel,
        is_builtin: bool,
        decode: Callable[[InferenceRequest], Row],
    ) -> DecodeAhead | None:
        """For this handler; None where its batches are decoded in their turn.

        Args:
            handler: What answers.
            context: Its own.
            load: How it was loaded.
            is_builtin: Whether its code is Flambeau's.
            decode: From a request to a row.
        """
        if load.batch_mode is not BatchMode.IN_TURN or load.service_envelope or not is_builtin:
            return None
        if not isinstance(handler, SampleHandler) or not handler.may_decode_ahead():
            return None
        return cls(handler, context, decode=decode)

    def receive(self, source: Source) -> Coming:
        """Wait for the next batch and decode it."""
        batch = source.receive()
        if batch is None:
            return Coming(batch=None)
        assert isinstance(batch, RunBatch)
        try:
            return Coming(batch=batch, prepared=self._prepared(batch))
        except BaseException:  # noqa: BLE001  # it is raised again, and told, in the batch's turn
            return Coming(batch=batch)

    def _prepared(self, batch: RunBatch) -> Prepared | None:
        if any(is_special(request) for request in batch.requests):
            return None
        self._context.begin_batch(batch.requests)
        self._handler.context = self._context
        prepared = self._handler.prepare([self._decode(request) for request in batch.requests])
        return prepared if self._copies is None else prepared.sent_by(self._copies)


def is_special(request: InferenceRequest) -> bool:
    """Whether it asks for something else than a prediction, and so is run alone."""
    return ("explain", "True") in request.headers or ("describe", "True") in request.headers
