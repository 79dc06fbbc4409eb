"""What a run of a case found, and what is held against it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Something measured.

    Attributes:
        name: With its unit, e.g. `exit_s`.
        value: What was found.
        at_most: The bar; None if it is only told.
    """

    name: str
    value: float
    at_most: float | None = None

    @property
    def is_met(self) -> bool:
        return self.at_most is None or self.value <= self.at_most


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One run.

    Attributes:
        case: Its name, e.g. `C2 retry on`.
        seed: Of everything random in it.
        counts: Requests by class, R, E, W, U and C.
        lost: Those that are neither R, E nor C.
        p99_ms: Of the right answers.
        recover_s: The longest time until all was as before a fault.
        figures: More that was measured. A bar of theirs may depend on the machine, so tests do not
            judge it; `make faults` does.
        broken: Promises that were not kept, for people; none if all is well.
    """

    case: str
    seed: int
    counts: dict[str, int]
    lost: int
    p99_ms: float
    recover_s: float
    figures: tuple[Figure, ...] = ()
    broken: tuple[str, ...] = field(default=())

    @property
    def num_sent(self) -> int:
        return sum(self.counts.values())

    @property
    def is_kept(self) -> bool:
        """Whether every promise that does not depend on the machine's speed was kept."""
        return not self.broken

    @property
    def missed(self) -> tuple[Figure, ...]:
        """Figures over their bars."""
        return tuple(figure for figure in self.figures if not figure.is_met)
