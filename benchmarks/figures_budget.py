"""The budget of one request, as data."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one stage takes of a request in one process, in microseconds."""

    process: str
    stage: Stage
    us: float


@dataclass(frozen=True, kw_only=True)
class Budget:
    """All parts, under so many connections.

    Attributes:
        connections: Each sends its next request when the answer is there.
        requests_per_s: Answered, while nobody sampled.
        num_cores: Whose time `whole_us` is; 1 for one connection, where it is the client's wait.
        whole_us: Time of these cores per request.
        parts: CPU time by process and stage.
        client_us: CPU time of the load generator.
        idle_us: Time in which cores had nothing to do; None when the whole is a wait.
        num_samples: Busy stacks seen by process; a share of `n` samples is as sure as its root.
    """

    connections: int
    requests_per_s: float
    num_cores: int
    whole_us: float
    parts: list[Part]
    client_us: float
    idle_us: float | None
    num_samples: dict[str, int]

    @property
    def rest_us(self) -> float:
        """What is left: wake-ups, other processes, and what a hypervisor gives to others."""
        known_us = self.client_us + (self.idle_us or 0.0) + sum(part.us for part in self.parts)
        return self.whole_us - known_us

    def us_of(self, process: str, stage: Stage) -> float:
        return sum(p.us for p in self.parts if (p.process, p.stage) == (process, stage))
