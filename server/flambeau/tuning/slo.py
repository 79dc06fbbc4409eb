"""A latency objective: `p99=20ms`, or several, `p50=5ms,p99=20ms`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from flambeau.errors import ConfigError

_PERCENTILES: Final = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_TARGET = re.compile(r"(p\d+)\s*=\s*(\d+(?:\.\d+)?)\s*([a-z]*)")
_DURATION_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")


@dataclass(frozen=True, slots=True)
class Target:
    """So many percent of all requests are answered within so many seconds.

    Attributes:
        percentile: 50, 90, 95 or 99.
        limit_s: Over 0.
    """

    percentile: int
    limit_s: float

    def __str__(self) -> str:
        return f"p{self.percentile}={shown_time(self.limit_s)}"

    def max_slower(self, num_requests: int) -> int:
        """How many of so many requests may be slower than the limit."""
        return num_requests * (100 - self.percentile) // 100


@dataclass(frozen=True, slots=True)
class Slo:
    """All of these are to hold; at least one."""

    targets: tuple[Target, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.targets))

    @property
    def highest(self) -> Target:
        """The target of the highest percentile, which reports name."""
        return max(self.targets, key=lambda target: target.percentile)

    @property
    def longest_s(self) -> float:
        """The largest limit."""
        return max(target.limit_s for target in self.targets)


def parse_slo(text: str) -> Slo:
    """Read `p99=20ms` and its like.

    Raises:
        ConfigError: It is none; the message shows one.
    """
    targets: dict[int, Target] = {}
    for part in text.split(","):
        found = _TARGET.fullmatch(part.strip().lower())
        if found is None:
            raise ConfigError(f"--slo has {part.strip()!r}; write it like p99=20ms or p50=5ms")
        name, number, unit = found.groups()
        if name not in _PERCENTILES:
            raise ConfigError(f"--slo has {name}; use one of {', '.join(_PERCENTILES)}")
        if unit not in _UNITS:
            raise ConfigError(
                f"--slo has {part.strip()!r} with unit {unit!r}; use one of {', '.join(_UNITS)}"
            )
        percentile, limit_s = _PERCENTILES[name], float(number) * _UNITS[unit]
        if limit_s <= 0:
            raise ConfigError(f"--slo has {part.strip()!r}; use a time over 0")
        if percentile in targets:
            raise ConfigError(f"--slo has {name} twice; give it once")
        targets[percentile] = Target(percentile, limit_s)
    slo = Slo(tuple(targets[percentile] for percentile in sorted(targets)))
    _check_rising(slo)
    return slo


def parse_duration(text: str, *, flag: str) -> float:
    """Seconds in `90s`, `5m` or `1h`.

    Raises:
        ConfigError: It is none of these, or 0.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    seconds = float(found[1]) * _DURATION_UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"{flag} is {text!r}; write it like 90s, 5m or 1h")
    return seconds


def shown_time(seconds: float) -> str:
    """A latency for people: `850us`, `20ms`, `1.5s`."""
    unit = next((unit for unit in ("s", "ms") if seconds >= _UNITS[unit]), "us")
    return f"{seconds / _UNITS[unit]:.3g}{unit}"


def _check_rising(slo: Slo) -> None:
    for lower, higher in zip(slo.targets, slo.targets[1:], strict=False):
        if higher.limit_s < lower.limit_s:
            raise ConfigError(
                f"--slo has {higher} below {lower}, so {lower} says nothing; drop it or lower it"
            )
