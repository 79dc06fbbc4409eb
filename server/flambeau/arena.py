"""Memory that the front shares with one worker, for bodies too large for their socket.

The front writes a body into a file that exists in memory only, and says where in its message; the
worker has the file mapped and reads it there. That spares two copies through the kernel, and the
two processes' waiting for one another every 200 KB, which is all a socket takes at a time.

The worker is not trusted, so the front only ever writes, through the file's descriptor: it maps
nothing that could go away under it, and reads nothing back. The file's size is sealed. Each worker
has a file of its own and finds in it its own requests' bodies only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from msgspec import structs

from flambeau import wire
from flambeau.messages import RunBatch, SharedBody, ShareMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.messages import InferenceRequest

# of address space: a page takes memory once it has been written. Twenty of the largest bodies that
# the default limit allows; a batch that does not fit goes over the socket
NUM_BYTES: Final = 128 << 20
_ALIGNMENT: Final = 64  # bytes, of a processor's cache lines
_EMPTY: Final = memoryview(b"")
_PUNCH_HOLE: Final = 0x02 | 0x01  # <linux/falloc.h>: FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE


class Arena:
    """The front's side: which batch has which part of the file."""

    def __init__(self, descriptor: int, *, num_bytes: int) -> None:
        # for the life of the worker
        self._descriptor = descriptor
        self._num_bytes = num_bytes
        # by batch id: where its bodies begin and end, ascending
        self._taken: dict[int, tuple[int, int]] = {}
        # the end of what has been written since memory was given back
        self._written_to = 0

    @classmethod
    def create(cls, num_bytes: int = NUM_BYTES) -> Arena | None:
        """An empty one; None where the system has no such files, or no more of them."""
        if sys.platform != "linux":
            return None
        try:
            descriptor = os.memfd_create("flambeau-bodies", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return None
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        try:
            os.ftruncate(descriptor, num_bytes)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        except OSError:
            os.close(descriptor)
            return None
        return cls(descriptor, num_bytes=num_bytes)

    def hand_over(self, sock: socket.socket) -> None:
        """Send the file to the worker; the first thing that is sent.

        Raises:
            OSError: The worker has gone already.
        """
        message = wire.encode(ShareMemory(num_bytes=self._num_bytes))
        socket.send_fds(sock, [message], [self._descriptor])

    @property
    def is_empty(self) -> bool:
        """Whether no batch has anything in it."""
        return not self._taken

    def stored(self, batch: RunBatch, places: Sequence[tuple[int, int]]) -> RunBatch | None:
        """The batch, with some of its bodies in the arena; None when there is no room.

        Args:
            batch: Has nothing in it yet; `free` it when the worker is done with it.
            places: Of the bodies: each a request's, and an input's of that request.
        """
        bodies = [batch.requests[request].inputs[part].body for request, part in places]
        offset = self._take(batch.batch_id, sum(_aligned(len(body)) for body in bodies))
        if offset is None:
            return None
        shared: list[SharedBody] = []
        try:
            for (request, part), body in zip(places, bodies, strict=True):
                self._write(body, offset)
                shared.append(SharedBody(request, part, offset, len(body)))
                offset += _aligned(len(body))
        except OSError:  # the system has no memory left for it
            self.free(batch.batch_id)
            return None
        requests = _with_bodies(batch.requests, dict.fromkeys(places, _EMPTY))
        return RunBatch(batch_id=batch.batch_id, requests=requests, shared=shared)

    def free(self, batch_id: int) -> None:
        """The worker has read what the batch had here, if it had anything."""
        self._taken.pop(batch_id, None)

    def give_back(self) -> None:
        """Return the memory of an empty arena to the system."""
        if self._written_to and self.is_empty and self._descriptor >= 0:
            libc = ctypes.CDLL(None)
            length = ctypes.c_int64(self._written_to)
            libc.fallocate(self._descriptor, _PUNCH_HOLE, ctypes.c_int64(0), length)
            self._written_to = 0

    def close(self) -> None:
        """The worker has gone: nothing can be stored any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self, batch_id: int, num_bytes: int) -> int | None:
        """The first gap of so many bytes, which is then taken; None when there is none."""
        if self._descriptor < 0:
            return None
        begin = 0
        for taken_from, taken_to in self._taken.values():
            if begin + num_bytes <= taken_from:
                break
            begin = taken_to
        end = begin + num_bytes
        if end > self._num_bytes:
            return None
        self._taken[batch_id] = (begin, end)
        if len(self._taken) > 1:
            self._taken = dict(sorted(self._taken.items(), key=lambda item: item[1]))
        self._written_to = max(self._written_to, end)
        return begin

    def _write(self, body: memoryview, offset: int) -> None:
        at = 0
        while at < len(body):
            at += os.pwrite(self._descriptor, body[at:], offset + at)


class SharedBodies:
    """The worker's side: the file as memory that can be read."""

    def __init__(self, descriptor: int, *, num_bytes: int) -> None:
        """Map the file and close its descriptor."""
        try:
            self._memory = memoryview(mmap.mmap(descriptor, num_bytes, prot=mmap.PROT_READ))
        finally:
            os.close(descriptor)

    def filled(self, batch: RunBatch) -> RunBatch:
        """The batch with its bodies; they are there until its `BatchDone` is sent."""
        bodies = {
            (each.request, each.part): self._memory[each.offset : each.offset + each.num_bytes]
            for each in batch.shared
        }
        requests = _with_bodies(batch.requests, bodies)
        return RunBatch(batch_id=batch.batch_id, requests=requests)


def received_files(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The open files that came with a message, as `recvmsg` tells."""
    found: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            with contextlib.suppress(ValueError):  # cut off, which a single one is not
                found += memoryview(content).cast("i").tolist()
    return found


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _with_bodies(
    requests: Sequence[InferenceRequest], bodies: dict[tuple[int, int], memoryview]
) -> list[InferenceRequest]:
    """The requests with other bodies at these places, each a request's and an input's."""
    changed = list(requests)
    for (place, part), body in bodies.items():
        inputs = list(changed[place].inputs)
        inputs[part] = structs.replace(inputs[part], body=body)
        changed[place] = structs.replace(changed[place], inputs=inputs)
    return changed
