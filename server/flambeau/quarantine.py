"""Requests that end workers, remembered by their bytes so that they end no further ones.

A request that was alone with two workers when they ended is to blame: the same bytes are refused
for a while. One loss proves nothing, for a worker may be killed from outside. Only what was alone
with a worker when it ended is ever hashed, and what is as long as something refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

from flambeau.messages import InferenceRequest

_MAX_ENTRIES: Final = 1024  # of each kind; the oldest make room


class Quarantine:
    """Owner of what one version refuses.

    Attributes:
        sizes: How many refused requests there are by the bytes of their bodies; empty, and with it
            all work that requests cost here, while nothing is refused.
    """

    def __init__(self, *, seconds: float, max_entries: int = _MAX_ENTRIES) -> None:
        """Begin with nothing.

        Args:
            seconds: How long bytes are refused; 0 refuses nothing.
            max_entries: Requests to remember at most.
        """
        # for the life of the version
        self._seconds = seconds
        self._max_entries = max_entries
        # oldest first, with when they are forgotten
        self.sizes: Counter[int] = Counter()
        self._refused: dict[tuple[int, bytes], float] = {}
        self._suspected: dict[bytes, float] = {}

    def suspect(self, request: InferenceRequest, *, now: float) -> bool:
        """A worker ended while it had this request alone; whether that makes it refused."""
        digest = _digest(request)
        until = self._suspected.pop(digest, 0.0)
        if now < until:
            self.convict(request, now=now)
            return True
        self._suspected[digest] = now + self._seconds
        while len(self._suspected) > self._max_entries:
            del self._suspected[next(iter(self._suspected))]
        return False

    def convict(self, request: InferenceRequest, *, now: float) -> None:
        """It is to blame: refuse it from now on."""
        if not self._seconds:
            return
        key = (_size(request), _digest(request))
        self._forget(key)
        self._refused[key] = now + self._seconds
        self.sizes[key[0]] += 1
        while len(self._refused) > self._max_entries:
            self._forget(next(iter(self._refused)))

    def left_s(self, request: InferenceRequest, *, now: float) -> float:
        """Seconds for which the request is still refused; 0 where it is not."""
        while self._refused and next(iter(self._refused.values())) <= now:
            self._forget(next(iter(self._refused)))
        size = _size(request)
        if size not in self.sizes:
            return 0.0
        return self._refused.get((size, _digest(request)), now) - now

    def _forget(self, key: tuple[int, bytes]) -> None:
        if self._refused.pop(key, None) is not None:
            self.sizes[key[0]] -= 1
            if not self.sizes[key[0]]:
                del self.sizes[key[0]]


def _size(request: InferenceRequest) -> int:
    return sum(len(part.body) for part in request.inputs)


def _digest(request: InferenceRequest) -> bytes:
    """SHA-256 over all inputs; lengths keep one part's end from being another's beginning."""
    found = hashlib.sha256()
    for part in request.inputs:
        for text in (part.name, part.content_type or ""):
            encoded = text.encode("utf-8", "surrogatepass")
            found.update(len(encoded).to_bytes(8, "little") + encoded)
        found.update(len(part.body).to_bytes(8, "little"))
        found.update(part.body)
    return found.digest()
