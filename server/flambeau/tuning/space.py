"""What is worth trying on a machine: each setting's choices, in order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

from flambeau.messages import OptimizeLevel
from flambeau.tuning.candidate import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from flambeau.tuning.machine import Machine
    from flambeau.tuning.slo import Slo

_CPU_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
_GPU_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_DELAYS_MS: Final = (0, 1, 2, 5, 10, 20, 50)
_GPU_WORKERS: Final = (1, 2, 4)  # per device: beside each other they hide each other's copies
_MEMORY_SHARE: Final = 0.8  # of what is free; the rest is for requests and for other programs
_MAX_DELAY_SHARE: Final = 0.5  # of the objective; a longer wait leaves no time to compute


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """The choices for each setting, each rising and not empty.

    Attributes:
        num_cpus: To share out among workers; 0 where their number of threads does not matter.
        workers: Of a version.
        batch_sizes: The most requests per handler call.
        delays_ms: How long a batch that is not full may be held back.
        levels: What may be done to the model to make it faster.
    """

    num_cpus: int
    workers: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    delays_ms: tuple[int, ...]
    levels: tuple[OptimizeLevel, ...]

    def threads(self, workers: int) -> tuple[int, ...]:
        """Threads per worker: 0 for an equal share of the CPUs, then halves of it down to 1."""
        threads = [0]
        share = self.num_cpus // workers // 2
        while share >= 1:
            threads.append(share)
            share //= 2
        return tuple(threads)

    def __iter__(self) -> Iterator[Candidate]:
        for workers in self.workers:
            for threads, batch_size, level in product(
                self.threads(workers), self.batch_sizes, self.levels
            ):
                for delay_ms in self._delays_ms(batch_size):
                    yield Candidate(
                        workers=workers,
                        threads=threads,
                        batch_size=batch_size,
                        max_delay_ms=delay_ms,
                        level=level,
                    )

    def choose(self, pick: Callable[[str, int], int]) -> Candidate:
        """A candidate, setting by setting.

        Args:
            pick: Gets a setting's name and how many choices it has, gives the place of one.
        """
        workers = self.workers[pick("workers", len(self.workers))]
        threads = self.threads(workers)
        batch_size = self.batch_sizes[pick("batch_size", len(self.batch_sizes))]
        delays_ms = self._delays_ms(batch_size)
        return Candidate(
            workers=workers,
            threads=threads[pick("threads", len(threads))],
            batch_size=batch_size,
            max_delay_ms=delays_ms[pick("max_delay_ms", len(delays_ms))],
            level=self.levels[pick("level", len(self.levels))],
        )

    def places(self, candidate: Candidate) -> dict[str, int] | None:
        """What `pick` must give for a candidate to be chosen; None where it is not among them."""
        try:
            threads = self.threads(candidate.workers)
            return {
                "workers": self.workers.index(candidate.workers),
                "threads": threads.index(candidate.threads),
                "batch_size": self.batch_sizes.index(candidate.batch_size),
                "max_delay_ms": self._delays_ms(candidate.batch_size).index(candidate.max_delay_ms),
                "level": self.levels.index(candidate.level),
            }
        except ValueError:
            return None

    def _delays_ms(self, batch_size: int) -> tuple[int, ...]:
        """A batch of one is full at once, so nothing is held back for it."""
        return self.delays_ms if batch_size > 1 else self.delays_ms[:1]

    def first_guesses(self) -> list[Candidate]:
        """What often does well: as many workers as fit, and one with all CPUs, in batches."""
        batch_size = self.batch_sizes[len(self.batch_sizes) // 2]
        delay_ms = self.delays_ms[min(1, len(self.delays_ms) - 1)]
        return [
            Candidate(
                workers=workers, batch_size=batch_size, max_delay_ms=delay_ms, level=self.levels[-1]
            )
            for workers in dict.fromkeys((self.workers[-1], self.workers[0]))
        ]


def space_of(
    machine: Machine,
    *,
    present: Candidate,
    worker_bytes: int,
    slo: Slo,
    levels: Collection[OptimizeLevel],
) -> SearchSpace:
    """What to try on a machine.

    Args:
        machine: Its CPUs, GPUs and memory.
        present: What the archive says now; its choices are among those that are tried.
        worker_bytes: What one worker takes; limits how many are tried.
        slo: No batch is held back for longer than half of it.
        levels: Those that are allowed besides the present one.
    """
    on_gpu = machine.num_gpus > 0
    most = max(1, int(machine.free_bytes * _MEMORY_SHARE) // max(1, worker_bytes))
    if on_gpu:
        workers = [machine.num_gpus * each for each in _GPU_WORKERS]
    else:
        workers = [*_powers_of_two(machine.num_cpus), machine.num_cpus]
    longest_ms = slo.longest_s * 1000 * _MAX_DELAY_SHARE
    return SearchSpace(
        num_cpus=0 if on_gpu else machine.num_cpus,
        workers=_rising([each for each in workers if each <= most] or [1], present.workers),
        batch_sizes=_rising(_GPU_BATCH_SIZES if on_gpu else _CPU_BATCH_SIZES, present.batch_size),
        delays_ms=_rising([each for each in _DELAYS_MS if each <= longest_ms]),
        levels=tuple(each for each in OptimizeLevel if each in {*levels, present.level}),
    )


def _powers_of_two(most: int) -> list[int]:
    return [1 << place for place in range(most.bit_length())]


def _rising(choices: Iterable[int], *more: int) -> tuple[int, ...]:
    return tuple(sorted({*choices, *more}))
