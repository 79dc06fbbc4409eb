"""`Candidate`: one choice of settings, as the keys of a model's YAML that it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flambeau.messages import OptimizeLevel
from flambeau.model_settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One choice of settings.

    Attributes:
        workers: 1 or more.
        threads: Per worker; 0 lets the server share out the CPUs.
        batch_size: 1 or more.
        max_delay_ms: 0 or more.
        level: What may be done to the model to make it faster.
    """

    workers: int
    threads: int = 0
    batch_size: int = 1
    max_delay_ms: int = 0
    level: OptimizeLevel = OptimizeLevel.SAFE

    @classmethod
    def of_yaml(cls, document: Mapping[str, Any], *, default_workers: int) -> Candidate:
        """What an archive's YAML stands for at present."""
        settings = ModelSettings().with_yaml(document)
        return cls(
            workers=settings.min_workers or default_workers,
            threads=settings.threads_per_worker,
            batch_size=settings.batch_size,
            max_delay_ms=settings.max_batch_delay_ms,
            level=settings.optimize,
        )

    @property
    def size(self) -> tuple[int, ...]:
        """Of two that are equally fast, the one for which this is less is better."""
        level = list(OptimizeLevel).index(self.level)
        return (self.workers, self.batch_size, self.max_delay_ms, self.threads, level)

    def as_yaml(self) -> dict[str, int | str]:
        """The keys of a model's YAML that say it."""
        keys: dict[str, int | str] = {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.max_delay_ms,
            "optimize": self.level.value,
        }
        if self.threads:
            keys["threadsPerWorker"] = self.threads
        return keys
