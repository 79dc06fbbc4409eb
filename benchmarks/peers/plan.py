"""Who is measured at what, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.peers.peer import Variant
from benchmarks.peers.roster import PEERS
from benchmarks.peers.work import WORKS, Work


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One server that is measured at a work.

    Attributes:
        connections: How many clients ask at a time, one measurement each.
    """

    peer: str
    connections: tuple[int, ...]
    variant: Variant = Variant.TUNED

    @property
    def name(self) -> str:
        return self.peer if self.variant is Variant.TUNED else f"{self.peer}, {self.variant}"


@dataclass(frozen=True, kw_only=True)
class Bout:
    """All that is measured at one work, by turns.

    Attributes:
        bare_batch_sizes: At which the program is called in a loop.
    """

    work: Work
    entries: tuple[Entry, ...]
    bare_batch_sizes: tuple[int, ...] = ()


RIVALS: Final = {
    "W1": tuple(PEERS),
    "W2": tuple(PEERS),
    "W3": ("flambeau", "torchserve", "mosec"),
    "W4": ("flambeau", "torchserve"),
    "W5": ("flambeau", "torchserve"),
}
VARIANTS: Final = {
    "W1": (
        Entry(peer="torchserve", variant=Variant.DEFAULT_DELAY, connections=(1,)),
        Entry(peer="mosec", variant=Variant.DEFAULT_DELAY, connections=(1,)),
    ),
    "W3": (Entry(peer="flambeau", variant=Variant.AUTO, connections=(8, 16)),),
}
BARE_BATCH_SIZES: Final = {"W1": (1, 16), "W3": (8, 16)}

STARTED_WORKS: Final = ("W1", "W3")
STARTED_PEERS: Final = ("flambeau", "torchserve")
SCALED_WORK: Final = "W3"
SCALED_TO: Final = 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for.

    Attributes:
        num_rounds: Each measures everything once.
        round_s: Seconds of each measurement, and twice that of slow works; wrk takes whole ones.
        warm_up_s: Before those of one server in one round.
        works: Names.
        peers: Names; Flambeau's is always among them.
        starts: Whether starts and further workers are measured.
    """

    num_rounds: int = 5
    round_s: int = 3
    warm_up_s: int = 1
    works: tuple[str, ...] = tuple(RIVALS)
    peers: tuple[str, ...] = tuple(PEERS)
    starts: bool = True

    def seconds_of(self, work: Work) -> int:
        """Of each measurement of a work."""
        return self.round_s * (2 if work.is_slow else 1)

    def bouts(self) -> list[Bout]:
        """In the order of the works."""
        return [_bout(work, self.peers) for work in WORKS if work.name in self.works]


def _bout(work: Work, peers: tuple[str, ...]) -> Bout:
    tuned = [
        Entry(peer=name, connections=work.connections)
        for name in RIVALS[work.name]
        if name in peers
    ]
    more = [entry for entry in VARIANTS.get(work.name, ()) if entry.peer in peers]
    return Bout(
        work=work,
        entries=(*tuned, *more),
        bare_batch_sizes=BARE_BATCH_SIZES.get(work.name, ()),
    )
