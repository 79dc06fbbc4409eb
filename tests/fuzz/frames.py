"""Any bytes from the other end of a worker's socket: refused with WireError, or messages."""

from __future__ import annotations

from collections.abc import Callable

from flambeau.wire import FrameReader, WireError, decode_to_front, decode_to_worker

MAX_FRAME_BYTES = 1 << 20
_HEAD_BYTES = 8


def fuzz(data: bytes) -> bool:
    """Cut a stream into payloads and read them; True when there was a message.

    The first byte says in pieces of which size the rest arrives.
    """
    step = data[0] or 1 << 16 if data else 1
    reader = FrameReader(max_frame_bytes=MAX_FRAME_BYTES)
    seen = bytearray()
    found = False
    stream = memoryview(data)[1:]
    try:
        while stream:
            buffer = reader.get_buffer()
            size = min(step, len(buffer), len(stream))
            assert size >= 1
            buffer[:size] = stream[:size]
            stream = stream[size:]
            for payload in reader.received(size):
                seen += len(payload).to_bytes(_HEAD_BYTES, "little") + payload
                found |= _is_message(payload)
    except WireError:
        pass  # the connection would be closed here
    assert data[1:].startswith(seen), "a payload is what was sent, in order"
    return found


def _is_message(payload: memoryview) -> bool:
    decoded = [_is_read_by(decode, payload) for decode in (decode_to_front, decode_to_worker)]
    assert decoded != [True, True], "no message is for both sides"
    return any(decoded)


def _is_read_by(decode: Callable[[memoryview], object], payload: memoryview) -> bool:
    try:
        decode(payload)
    except WireError:
        return False
    return True
