"""One StreamPredictions2 call: requests of one sequence come in, answers go out in their order.

A request that fails is answered with a status of its own, and the call goes on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from flambeau.admission import reply_parts
from flambeau.messages import InferenceRequest, Reply
from flambeau.model_version import ModelVersion
from flambeau.torchserve.grpc.edge import Call
from flambeau.torchserve.grpc.protos.inference_pb2 import PredictionResponse, PredictionsRequest
from flambeau.torchserve.grpc.refusals import refuse_inference

_MAX_AHEAD = 64  # requests of one call that are on their way at a time


class Reader(Protocol):
    """What a conversation asks of its service."""

    def resolve(self, message: PredictionsRequest) -> ModelVersion:
        """The version that answers; raises our errors."""
        ...

    def request(
        self, message: PredictionsRequest, call: Call, *, starts_sequence: bool
    ) -> InferenceRequest:
        """The request as a worker sees it."""
        ...


@dataclass(eq=False, slots=True)
class _Turn:
    """A request of the conversation, and its answer.

    Attributes:
        sequence_id: The sequence it belongs to.
        parts: Its answer, part by part.
        first: The task that submits it, and waits for the first part.
        over: Set once it is answered.
    """

    sequence_id: str
    parts: AsyncGenerator[Reply, None]
    first: asyncio.Task[Reply]
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def close(self) -> None:
        """Withdraw it unless it is answered."""
        self.first.cancel()
        await asyncio.wait({self.first})
        if not self.first.cancelled():
            self.first.exception()  # a failure that nobody hears of is no news
        await self.parts.aclose()
        self.over.set()


class Conversation:
    """Owner of one call's requests."""

    def __init__(self, reader: Reader, call: Call) -> None:
        self._reader = reader
        self._call = call
        self._sequence_id = ""
        self._num_turns = 0
        self._before: _Turn | None = None
        # sequences that end with the call, and who answers them
        self._opened: dict[str, ModelVersion] = {}
        # oldest first; None after the last
        self._turns: asyncio.Queue[_Turn | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_MAX_AHEAD)

    async def answers(
        self, messages: AsyncIterator[PredictionsRequest]
    ) -> AsyncGenerator[PredictionResponse, None]:
        """All answers, in the order of the messages; closing it withdraws what is on its way."""
        reading = asyncio.ensure_future(self._read(messages))
        turn: _Turn | None = None
        try:
            while (turn := await self._turns.get()) is not None:
                async for answer in self._answers(turn):
                    yield answer
                await turn.close()
                self._room.release()
            await reading  # raises what ended it early
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            left = [turn, *(self._turns.get_nowait() for _ in range(self._turns.qsize()))]
            for each in left:
                if each is not None:
                    await each.close()
            for sequence_id, version in self._opened.items():
                version.end_sequence(sequence_id)

    async def _read(self, messages: AsyncIterator[PredictionsRequest]) -> None:
        """Begin a turn for each message, as long as there is room."""
        try:
            async for message in messages:
                await self._room.acquire()
                self._before = self._begin(message)
                self._turns.put_nowait(self._before)
        finally:
            self._turns.put_nowait(None)

    def _begin(self, message: PredictionsRequest) -> _Turn:
        """Submit a request; one without a sequence goes on with the sequence before."""
        starts = not self._sequence_id or message.sequence_id not in {"", self._sequence_id}
        self._sequence_id = message.sequence_id or self._sequence_id or f"ts-seq-{uuid.uuid4()}"
        message.sequence_id = self._sequence_id
        self._num_turns += 1
        call = replace(self._call, request_id=f"{self._call.request_id}-{self._num_turns}")
        parts = self._parts(message, call, starts_sequence=starts, before=self._before)
        return _Turn(self._sequence_id, parts, asyncio.ensure_future(anext(parts)))

    async def _parts(
        self,
        message: PredictionsRequest,
        call: Call,
        *,
        starts_sequence: bool,
        before: _Turn | None,
    ) -> AsyncGenerator[Reply, None]:
        version = self._reader.resolve(message)
        self._opened[message.sequence_id] = version
        if version.settings.sequence_batching and before is not None:
            await before.over.wait()  # a sequence goes one by one, and its queue is short
        request = self._reader.request(message, call, starts_sequence=starts_sequence)
        given = bool(message.model_version)
        async with aclosing(reply_parts(version, request, version_given=given)) as parts:
            async for part in parts:
                yield part

    async def _answers(self, turn: _Turn) -> AsyncGenerator[PredictionResponse, None]:
        """The parts of one answer, or after some of them what went wrong."""
        try:
            yield _answer(await turn.first, turn)
            async for part in turn.parts:
                yield _answer(part, turn)
        except Exception as error:  # noqa: BLE001  # it is this request's alone
            refusal = refuse_inference(error)
            detail = AnyMessage()
            detail.Pack(ErrorInfo(reason=refusal.reason))
            status = Status(code=refusal.number, message=refusal.message, details=[detail])
            yield PredictionResponse(status=status, sequence_id=turn.sequence_id)


def _answer(part: Reply, turn: _Turn) -> PredictionResponse:
    return PredictionResponse(prediction=bytes(part.body), sequence_id=turn.sequence_id)
