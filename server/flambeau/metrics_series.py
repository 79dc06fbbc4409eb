"""Series under exactly their names, written as TorchServe's page has them.

`prometheus_client` would extend a counter's name by `_total` and leave out the comma after the last
label, which people match.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

from flambeau.messages import MetricKind, MetricSpec

# TorchServe's, meant for seconds, then as far as milliseconds and sizes need
BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0),
)

Labels: TypeAlias = tuple[tuple[str, str], ...]


class Series(ABC):
    """One set of label values and what was recorded under it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    @abstractmethod
    def record(self, value: float) -> None:
        """Take one value."""

    def samples(self, name: str, labels: str) -> Iterator[tuple[str, str, float]]:
        """Each line's name, labels and value."""
        yield name, labels, self.value


class CounterSeries(Series):
    """A sum."""

    __slots__ = ()

    def record(self, value: float) -> None:
        self.value += value


class GaugeSeries(Series):
    """The last value."""

    __slots__ = ()

    def record(self, value: float) -> None:
        self.value = value


class HistogramSeries(Series):
    """How many values were at most so large; `value` is their sum."""

    __slots__ = ("_bounds", "_counts")

    def __init__(self, bounds: Sequence[float] = BUCKETS) -> None:
        """`bounds` are the largest value of each bucket but the last, rising."""
        super().__init__()
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)

    def record(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.value += value

    def totals(self) -> Iterator[tuple[str, int]]:
        """For each bound as text, the last being `+Inf`, how many values were at most so large."""
        return zip((*map(repr, self._bounds), "+Inf"), accumulate(self._counts), strict=True)

    def samples(self, name: str, labels: str) -> Iterator[tuple[str, str, float]]:
        total = 0
        for bound, total in self.totals():
            yield f"{name}_bucket", f'{labels}le="{bound}",', float(total)
        yield f"{name}_count", labels, float(total)
        yield f"{name}_sum", labels, self.value


_SERIES: Final[dict[MetricKind, Callable[[], Series]]] = {
    MetricKind.COUNTER: CounterSeries,
    MetricKind.GAUGE: GaugeSeries,
    MetricKind.HISTOGRAM: HistogramSeries,
}


class Family:
    """All series of one name.

    Attributes:
        spec: Name, unit, kind and label names; series may have label names of their own.
    """

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec
        # by their labels in whatever order, because Prometheus knows no order
        self._series: dict[frozenset[tuple[str, str]], tuple[Labels, Series]] = {}

    def __len__(self) -> int:
        return len(self._series)

    def series(self, values: Sequence[str]) -> Series:
        """The series with these values of the family's labels, made when it is new."""
        return self.labelled(tuple(zip(self.spec.dimensions, values, strict=True)))

    def labelled(self, labels: Labels) -> Series:
        """The series with exactly these labels, made when it is new."""
        key = frozenset(labels)
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = (labels, _SERIES[self.spec.kind]())
        return found[1]

    def has(self, labels: Labels) -> bool:
        return frozenset(labels) in self._series

    def remove(self, labels: Labels) -> None:
        """Forget a series, if it is there."""
        self._series.pop(frozenset(labels), None)

    def render(self, names: Collection[str] = ()) -> str:
        """The lines; with `names`, only samples of these names, and nothing when there are none."""
        lines = [
            f"{name}{{{labels}}} {number(value)}" if labels else f"{name} {number(value)}"
            for pairs, series in self._series.values()
            for name, labels, value in series.samples(self.spec.name, _text(pairs))
            if not names or name in names
        ]
        if names and not lines:
            return ""
        spec = self.spec
        head = [
            f"# HELP {spec.name} Torchserve prometheus {spec.kind.value} metric with unit: "
            + _escape(spec.unit).replace('\\"', '"'),
            f"# TYPE {spec.name} {spec.kind.value}",
        ]
        return "\n".join([*head, *lines, ""])


def number(value: float) -> str:
    """A value as Prometheus writes it: always with a point or an exponent."""
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _text(labels: Labels) -> str:
    """`name="value",` for each label: the last one has its comma, too."""
    return "".join(f'{name}="{_escape(value)}",' for name, value in labels)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
