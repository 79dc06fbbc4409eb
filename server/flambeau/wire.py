"""`messages.py` to bytes and back, and the cutting of a byte stream into frames; does no I/O.

A frame is the payload's length, a little-endian u64, and the payload, one msgpack document. Bodies
are not copied out of a payload: they decode as views into it. Both ends of the socket use this
module, the worker with a blocking `recv_into`, the front as an `asyncio.BufferedProtocol`.
"""

from __future__ import annotations

import secrets
import struct
from typing import Final, TypeAlias, TypeVar

import msgspec
from msgspec import structs

from flambeau.errors import WorkerError
from flambeau.messages import Buffer, InferenceRequest, Input, RunBatch, ToFront, ToWorker

_LENGTH: Final = struct.Struct("<Q")
_SCRATCH_BYTES: Final = 256 * 1024  # more than Linux lets wait in a Unix socket, 208 KiB
MAX_FRAME_BYTES: Final = 2**32 - 1  # msgpack's own limit on one body
# From here on a body is not copied into its frame, and goes through shared memory where that is
# there: by turns with the socket, front and worker took 1.05 of its time for 64 KiB and 1.02 for
# 150 KiB (0.94 and 0.95 for four in a batch), 0.81 for 600 KiB (0.55), 0.62 for 4 MiB (0.55) and
# 0.78 for 16 MiB (0.53).
LARGE_BODY_BYTES: Final = 64 * 1024
_BIN_32: Final = struct.Struct(">BI")  # how msgpack begins a body of such a length: 0xC6, length
_MARK: Final = memoryview(secrets.token_bytes(16))

Message: TypeAlias = ToWorker | ToFront
_M = TypeVar("_M")

_encoder = msgspec.msgpack.Encoder()
_MARK_DOCUMENT: Final = _encoder.encode(_MARK)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_front: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)


class WireError(WorkerError):
    """The other side sent bytes that are not a message; the connection is of no further use."""


def encode(message: Message) -> bytearray:
    """One frame; every body is copied once, into it."""
    frame = bytearray(_LENGTH.size)
    _encoder.encode_into(message, frame, _LENGTH.size)
    _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
    return frame


def large_bodies(batch: RunBatch) -> list[tuple[int, int]]:
    """Where bodies are too large to be copied without need: a request's place, and an input's."""
    return [
        (place, part_place)
        for place, request in enumerate(batch.requests)
        for part_place, part in enumerate(request.inputs)
        if len(part.body) >= LARGE_BODY_BYTES
    ]


def encode_apart(message: ToWorker) -> list[Buffer]:
    """One frame in pieces, to be written one after the other; large bodies are not copied.

    A body stands in the document as a mark of random bytes that nobody outside can know; where
    the mark was found, the pieces are cut, and the body's head and the body go in between.

    Returns:
        The pieces; bodies among them must not change until they are written.
    """
    if not isinstance(message, RunBatch):
        return [encode(message)]
    bodies: list[memoryview] = []
    requests = [_without_bodies(request, bodies) for request in message.requests]
    if not bodies:
        return [encode(message)]
    document = _encoder.encode(structs.replace(message, requests=requests))
    heads = document.split(_MARK_DOCUMENT)
    if len(heads) != len(bodies) + 1:  # nothing but chance can bring this about
        return [encode(message)]
    pieces: list[Buffer] = []
    for head, body in zip(heads, bodies, strict=False):  # one more head, for what follows the last
        pieces += (head + _BIN_32.pack(0xC6, len(body)), body)
    pieces.append(heads[-1])
    return [_LENGTH.pack(sum(map(len, pieces))), *pieces]


def _without_bodies(request: InferenceRequest, bodies: list[memoryview]) -> InferenceRequest:
    """The request with marks in place of its large bodies, which are appended to `bodies`."""
    inputs: list[Input] | None = None
    for place, part in enumerate(request.inputs):
        if len(part.body) >= LARGE_BODY_BYTES:
            bodies.append(part.body)
            inputs = inputs or [*request.inputs]
            inputs[place] = structs.replace(part, body=_MARK)
    return request if inputs is None else structs.replace(request, inputs=inputs)


def decode_to_worker(payload: Buffer) -> ToWorker:
    """Read what the front sent.

    Raises:
        WireError: The payload is not one of the front's messages.
    """
    return _decode(_to_worker, payload)


def decode_to_front(payload: Buffer) -> ToFront:
    """Read what a worker sent.

    Raises:
        WireError: The payload is not one of a worker's messages.
    """
    return _decode(_to_front, payload)


class FrameReader:
    """Cuts a byte stream into payloads; the caller does the receiving.

    Receive into `get_buffer()`, then tell `received()` how much came. Frames that fit the scratch
    buffer are copied out of it once, so that one receive may bring many; a larger one is received
    straight into memory of its own. Payloads stay valid for as long as somebody holds them.
    """

    def __init__(self, *, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._scratch = bytearray(_SCRATCH_BYTES)
        # until the frame at the front of the stream is complete
        self._large: bytearray | None = None
        self._num_held = 0  # bytes received and not handed out, in `_large` or else in `_scratch`

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong, at least one byte long; valid until `received` is called."""
        target = self._scratch if self._large is None else self._large
        return memoryview(target)[self._num_held :]

    def received(self, num_bytes: int) -> list[memoryview]:
        """Take note of bytes received into `get_buffer()`.

        Args:
            num_bytes: How many came; 0 changes nothing, and is for the caller to see as the end.

        Returns:
            The payloads this completes, in order; often none.

        Raises:
            WireError: A frame announces more than `max_frame_bytes`.
        """
        self._num_held += num_bytes
        if self._large is None:
            return self._cut_scratch()
        if self._num_held < len(self._large):
            return []
        payload = memoryview(self._large)
        self._large = None
        self._num_held = 0
        return [payload]

    def _cut_scratch(self) -> list[memoryview]:
        """Complete payloads in the scratch buffer; what is left over moves to its start."""
        payloads: list[memoryview] = []
        at = 0
        held = memoryview(self._scratch)[: self._num_held]
        while len(held) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held, at)
            if length > self.max_frame_bytes:
                raise WireError(
                    f"a frame of {length} bytes is announced, over the limit of "
                    f"{self.max_frame_bytes}; raise the limit, or the stream is damaged"
                )
            start, end = at + _LENGTH.size, at + _LENGTH.size + length
            if end <= len(held):
                payloads.append(memoryview(bytes(held[start:end])))
                at = end
            elif end - at > _SCRATCH_BYTES:
                self._begin_large(length, held[start:])
                return payloads
            else:
                break
        rest = bytes(held[at:])
        self._scratch[: len(rest)] = rest
        self._num_held = len(rest)
        return payloads

    def _begin_large(self, length: int, beginning: memoryview) -> None:
        self._large = bytearray(length)
        self._large[: len(beginning)] = beginning
        self._num_held = len(beginning)


def _decode(decoder: msgspec.msgpack.Decoder[_M], payload: Buffer) -> _M:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a message: {type(error).__name__}: {error}") from error
