"""The keys that callers show: one for each role, with an end, and exchanged for new ones.

Pure: it reads two clocks that are handed to it, and writes nothing. `key_file.py` tells people the
keys, and `api/auth.py` asks for them at the door.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum, auto

_NUM_RANDOM_BYTES = 32
_MAX_KEY_BYTES = 256  # longer is none of ours, and not worth hashing


class Role(str, Enum):
    """What a key is for; the values are the names in TorchServe's key file."""

    MANAGEMENT = "management"
    INFERENCE = "inference"
    API = "API"  # renewing the other two; never ends


class Verdict(Enum):
    """What a shown key amounts to."""

    VALID = auto()
    OTHER_ROLE = auto()
    UNKNOWN = auto()  # or ended: the caller hears no difference


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A key and its end.

    Attributes:
        role: What it is for.
        text: What callers show; never logged.
        digest: SHA-256 of the text, which comparisons use.
        ends_at: Wall-clock time of its end; None for never.
        ends_at_monotonic: The same by the clock that nobody sets.
    """

    role: Role
    text: str
    digest: bytes
    ends_at: float | None = None
    ends_at_monotonic: float | None = None

    def __repr__(self) -> str:
        return f"Key({self.role.value})"

    @property
    def name(self) -> str:
        """What people tell it from others by: the first digits of its digest."""
        return self.digest.hex()[:8]


class KeyRing:
    """Owner of the keys of one server."""

    def __init__(
        self,
        *,
        lifetime_s: float,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a key for each role.

        Args:
            lifetime_s: Seconds from a key's making to its end, for all but `API`.
            wall: Seconds since the epoch; counts while the machine sleeps, but people set it.
            monotonic: Seconds that nobody can set back.
        """
        # for the life of the server
        self._lifetime_s = lifetime_s
        self._wall = wall
        self._monotonic = monotonic
        # the newest key of each role, and all that are valid
        self._newest = {role: self._make(role) for role in Role}
        self._valid = list(self._newest.values())

    def check(self, shown: bytes, role: Role) -> Verdict:
        """Whether a key opens what belongs to `role`.

        Takes as long for a wrong key as for a right one: digests are compared, with every key.
        """
        key = self.find(shown)
        if key is None:
            return Verdict.UNKNOWN
        return Verdict.VALID if key.role is role else Verdict.OTHER_ROLE

    def find(self, shown: bytes) -> Key | None:
        """The valid key that has this text; compared as `check` says."""
        self._drop_ended()
        if len(shown) > _MAX_KEY_BYTES:
            return None
        digest = _digest(shown)
        found = [key for key in self._valid if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None

    def add(self, role: Role) -> Key:
        """A new key for a role, beside the one there is."""
        key = self._newest[role] = self._make(role)
        self._valid.append(key)
        return key

    def keep_only(self, key: Key) -> None:
        """End every other key of its role."""
        self._newest[key.role] = key
        self._valid = [each for each in self._valid if each.role is not key.role or each is key]

    def newest(self, role: Role) -> Key:
        """The latest key made for a role; it may have ended."""
        return self._newest[role]

    def document(self) -> dict[str, dict[str, str]]:
        """The newest keys in the shape of TorchServe's `key_file.json`."""
        return {role.value: _entry(self._newest[role]) for role in Role}

    def _make(self, role: Role) -> Key:
        text = secrets.token_urlsafe(_NUM_RANDOM_BYTES)
        digest = _digest(text.encode())
        if role is Role.API:
            return Key(role, text, digest)
        ends_at, ends_at_monotonic = (
            clock() + self._lifetime_s for clock in (self._wall, self._monotonic)
        )
        return Key(role, text, digest, ends_at, ends_at_monotonic)

    def _drop_ended(self) -> None:
        """Forget what has ended by either clock; setting one back revives nothing."""
        wall, monotonic = self._wall(), self._monotonic()
        if any(_has_ended(key, wall=wall, monotonic=monotonic) for key in self._valid):
            self._valid = [
                key for key in self._valid if not _has_ended(key, wall=wall, monotonic=monotonic)
            ]


def _has_ended(key: Key, *, wall: float, monotonic: float) -> bool:
    if key.ends_at is None or key.ends_at_monotonic is None:
        return False
    return wall >= key.ends_at or monotonic >= key.ends_at_monotonic


def _entry(key: Key) -> dict[str, str]:
    if key.ends_at is None:
        return {"key": key.text}
    end = datetime.fromtimestamp(key.ends_at, tz=timezone.utc)
    return {
        "key": key.text,
        "expiration time": end.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
