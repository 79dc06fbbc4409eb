"""Whatever a worker sends, the front's end of the socket survives it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flambeau import wire
from flambeau.channel import WorkerChannel
from flambeau.messages import BatchDone, LoadProgress, LoadStage, ToFront

MESSAGES = (
    bytes(wire.encode(LoadProgress(LoadStage.LOADING))),
    bytes(wire.encode(BatchDone(batch_id=1, results=[], handler_s=0.0))),
)


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(8, "little") + payload


def damaged(message: bytes, place: int, value: int) -> bytes:
    return message[: place % len(message)] + bytes([value]) + message[place % len(message) + 1 :]


SENT = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(frame),
    st.builds(damaged, st.sampled_from(MESSAGES), st.integers(0, 200), st.integers(0, 255)),
    st.sampled_from(MESSAGES),
)


async def deliver(pieces: list[bytes]) -> tuple[list[ToFront], list[dict[str, Any]]]:
    """What comes out of a real socket that these go into, and what went wrong on the loop."""
    loop = asyncio.get_running_loop()
    wrong: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003  # socket's own signature
    channel = WorkerChannel(max_frame_bytes=10_000)
    transport, _ = await loop.create_unix_connection(lambda: channel, sock=ours)
    heard: list[ToFront] = []
    closed = asyncio.Event()
    channel.listen(heard.append, closed.set)
    with theirs:
        for piece in pieces:
            theirs.sendall(piece)
    await closed.wait()
    transport.close()
    return heard, wrong


@given(st.lists(SENT, max_size=5))
def test_any_bytes_are_messages_or_the_end_of_the_channel(pieces: list[bytes]) -> None:
    heard, wrong = asyncio.run(deliver(pieces))
    assert not wrong
    assert len(heard) <= len(b"".join(pieces)) // 8


def test_messages_before_the_damage_are_heard() -> None:
    heard, wrong = asyncio.run(deliver([*MESSAGES, frame(b"nonsense"), *MESSAGES]))
    assert heard == [LoadProgress(LoadStage.LOADING), BatchDone(1, [], 0.0)]
    assert not wrong
