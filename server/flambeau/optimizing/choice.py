"""What was chosen for a model on a machine, and what it is worth."""

from __future__ import annotations

import msgspec

from flambeau.optimizing.candidates import AS_EXPORTED


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate and the threads it runs with.

    Attributes:
        candidate: Its name; `as exported` when nothing was worth it.
        num_threads: Threads one operation may use on the CPU.
        speed_up: Time as exported over its time, on one thread: the geometric mean of a single
            sample's and a batch's.
        max_abs_error: The largest difference from the outputs as exported, on the samples.
        refused: Candidates that cannot be used, and why, for people.
    """

    candidate: str
    num_threads: int
    speed_up: float = 1.0
    max_abs_error: float = 0.0
    refused: list[str] = []

    @property
    def text(self) -> str:
        """The choice in one line."""
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        facts = [self.candidate, threads]
        if self.candidate != AS_EXPORTED:
            speed, error = f"{self.speed_up:.2f}", f"{self.max_abs_error:.2g}"
            facts[1:1] = [f"{speed} times as fast as exported", f"max abs error {error}"]
        facts += [f"refused {reason}" for reason in self.refused]
        return ", ".join(facts)
