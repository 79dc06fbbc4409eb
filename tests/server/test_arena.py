from __future__ import annotations

import os
import socket
from collections.abc import Generator

import pytest

from flambeau import wire
from flambeau.arena import Arena, SharedBodies, received_files
from flambeau.messages import RunBatch, SharedBody, ShareMemory
from flambeau.testing import make_request

KIB = 1024
LARGE = wire.LARGE_BODY_BYTES


@pytest.fixture
def arena() -> Generator[Arena]:
    made = Arena.create(1024 * KIB)
    assert made is not None
    yield made
    made.close()


def batch(batch_id: int, *sizes: int) -> RunBatch:
    bodies = [bytes([batch_id * 16 + place]) * size for place, size in enumerate(sizes)]
    return RunBatch(batch_id=batch_id, requests=[make_request(body) for body in bodies])


def stored(arena: Arena, whole: RunBatch) -> RunBatch | None:
    return arena.stored(whole, wire.large_bodies(whole))


def bodies(whole: RunBatch) -> list[bytes]:
    return [bytes(request.inputs[0].body) for request in whole.requests]


def received(arena: Arena) -> tuple[SharedBodies, int]:
    """The worker's side, and another descriptor of the file."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arena.hand_over(ours)
        payload, ancillary, _, _ = theirs.recvmsg(KIB, socket.CMSG_SPACE(4))
    (descriptor,) = received_files(ancillary)
    (frame,) = cut(payload)
    message = wire.decode_to_worker(frame)
    assert isinstance(message, ShareMemory)
    assert message.num_bytes == 1024 * KIB
    return SharedBodies(os.dup(descriptor), num_bytes=message.num_bytes), descriptor


def cut(stream: bytes) -> list[memoryview]:
    reader = wire.FrameReader(max_frame_bytes=KIB)
    reader.get_buffer()[: len(stream)] = stream
    return reader.received(len(stream))


def test_bodies_arrive_as_they_were_and_small_ones_stay_in_the_message(arena: Arena) -> None:
    shared, descriptor = received(arena)
    os.close(descriptor)
    whole = batch(1, LARGE - 1, LARGE, 3, LARGE + 1)
    sent = stored(arena, whole)
    assert sent is not None
    assert [len(body) for body in bodies(sent)] == [LARGE - 1, 0, 3, 0]
    (frame,) = [memoryview(wire.encode(sent))[8:]]
    again = wire.decode_to_worker(frame)
    assert isinstance(again, RunBatch)
    assert bodies(shared.filled(again)) == bodies(whole)


def test_batches_share_it_and_what_one_frees_another_gets(arena: Arena) -> None:
    shared, descriptor = received(arena)
    os.close(descriptor)
    first, second, third = (batch(number, 400 * KIB) for number in (1, 2, 3))
    assert (one := stored(arena, first)) is not None
    assert (two := stored(arena, second)) is not None
    assert stored(arena, third) is None  # it has to go another way
    assert bodies(shared.filled(one)) == bodies(first)
    arena.free(1)
    assert (three := stored(arena, third)) is not None
    assert three.shared == one.shared == [SharedBody(0, 0, 0, 400 * KIB)]
    assert bodies(shared.filled(two)) == bodies(second)
    assert bodies(shared.filled(three)) == bodies(third)
    arena.free(2)
    arena.free(3)
    assert arena.is_empty


def test_a_worker_cannot_change_its_size(arena: Arena) -> None:
    _, descriptor = received(arena)
    for size in (0, 2048 * KIB):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    os.close(descriptor)


def test_its_memory_is_given_back_when_nothing_is_in_it(arena: Arena) -> None:
    _, descriptor = received(arena)
    assert os.fstat(descriptor).st_blocks == 0
    assert stored(arena, batch(1, 400 * KIB)) is not None
    assert os.fstat(descriptor).st_blocks * 512 == 400 * KIB
    arena.give_back()
    assert os.fstat(descriptor).st_blocks * 512 == 400 * KIB  # the worker has yet to read it
    arena.free(1)
    arena.give_back()
    assert os.fstat(descriptor).st_blocks == 0
    os.close(descriptor)


def test_once_closed_it_stores_nothing(arena: Arena) -> None:
    arena.close()
    assert stored(arena, batch(1, LARGE)) is None
