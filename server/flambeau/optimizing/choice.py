"""What was chosen for a model on a machine, and what it is worth."""

from __future__ import annotations

import msgspec

from flambeau.optimizing.candidates import AS_EXPORTED


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found about one form of a model, on one thread.

    Attributes:
        candidate: Its name.
        alone_s: Seconds that a single sample takes; 0 if it was refused.
        batch_s: Seconds that a batch takes.
        speed_up: As in `Choice`.
        max_abs_error: As in `Choice`.
        refused: Why it cannot be used; empty if it can.
    """

    candidate: str
    alone_s: float = 0.0
    batch_s: float = 0.0
    speed_up: float = 0.0
    max_abs_error: float = 0.0
    refused: str = ""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate, and what was seen of it.

    Attributes:
        candidate: Its name; `as exported` when nothing was worth it.
        batch_s: Seconds that a batch of it keeps one thread busy, on the CPU.
        speed_up: Time as exported over its time, on one thread: the geometric mean of a single
            sample's and a batch's.
        max_abs_error: The largest difference from the outputs as exported, on the samples.
        refused: Candidates that cannot be used, and why, for people.
    """

    candidate: str
    batch_s: float = 0.0
    speed_up: float = 1.0
    max_abs_error: float = 0.0
    refused: list[str] = []

    def text(self, *, num_threads: int) -> str:
        """The choice in one line.

        Args:
            num_threads: Threads it runs with.
        """
        threads = f"{num_threads} thread{'s' if num_threads > 1 else ''}"
        facts = [self.candidate, threads]
        if self.candidate != AS_EXPORTED:
            speed, error = f"{self.speed_up:.2f}", f"{self.max_abs_error:.2g}"
            facts[1:1] = [f"{speed} times as fast as exported", f"max abs error {error}"]
        facts += [f"refused {reason}" for reason in self.refused]
        return ", ".join(facts)
