"""What handlers emit, as series of their model: listed or found out, bounded, never trusted.

Values arrive as samples that a worker made. Each model may have so many series of one metric; what
comes beyond is recorded under the label value `other`, so that sums stay right.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from flambeau.config import MetricsMode
from flambeau.handler_metric import UNIT_WORDS
from flambeau.messages import MetricKind, MetricSample, MetricSpec
from flambeau.metrics_board import Clock, log_line
from flambeau.metrics_config import HOSTNAME, OUR_PREFIXES, series_names
from flambeau.metrics_series import Family, Labels, Series

_log = logging.getLogger(__name__)
model_log: Final = logging.getLogger("flambeau.metrics.model")

MAX_SERIES: Final = 200  # of one metric and model
MAX_NAMES: Final = 200  # of one model, beside those listed
OTHER: Final = "other"
_MAX_CHARS: Final = 200  # of a name or a label's value
_OWN: Final = {"ModelName", "Level", HOSTNAME}  # labels whose values stay when others are folded
_ADDED: Final = {HOSTNAME, "le"}
_UNFIT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_:]")
_UNFIT_IN_LABELS: Final = re.compile(r"[^a-zA-Z0-9_]")

# told about values that got no series of their own: the model, and why
Dropped: TypeAlias = Callable[[str, str], None]
# takes milliseconds, and the batch's requests, separated by commas
RecordTime: TypeAlias = Callable[[float, str], None]


class ModelMetricsBoard:
    """Owner of the series that handlers' values make."""

    def __init__(
        self,
        specs: Iterable[MetricSpec],
        *,
        auto_detect: bool,
        taken: Iterable[str],
        mode: MetricsMode,
        hostname: str,
        clock: Clock,
        dropped: Dropped,
    ) -> None:
        """Begin with the listed metrics.

        Args:
            specs: What the metrics configuration lists under `model_metrics`.
            auto_detect: Keep other metrics, too.
            taken: Names on the page that are not for handlers.
            mode: Where values go.
            hostname: This machine's name, which every series gets as a label.
            clock: Seconds since the epoch.
            dropped: Told about each value that is not kept as it is.
        """
        # for the life of the server
        self._auto_detect = auto_detect
        self._on_page = mode is MetricsMode.PROMETHEUS
        self._hostname = hostname
        self._clock = clock
        self._dropped = dropped
        self._families: dict[str, Family] = {}
        self._listed: set[str] = set()
        self._taken = set(taken)
        self._num_names: Counter[str] = Counter()  # by model, beside those listed
        self._num_series: Counter[tuple[str, str]] = Counter()  # by name and model
        self._times: dict[tuple[str, str], Series] = {}  # by model and name, to record at once
        self._warned: set[tuple[str, str, str]] = set()
        for spec in specs:
            self._add(spec)
            self._listed.add(spec.name)

    def record(self, model: str, samples: Iterable[MetricSample]) -> None:
        """Take a model's values, in the order in which they were emitted."""
        for sample in samples:
            family = self._family(sample, model=model)
            if isinstance(family, _Refusal):
                self._dropped(model, family.reason)
                self._warn(model, family, f"values are dropped: {family.text}")
                continue
            labels = _labels(sample, is_listed=family.spec.name in self._listed)
            if self._on_page:
                self._put(family, (*labels, (HOSTNAME, self._hostname)), sample, model=model)
            else:
                self._write(family.spec, labels, sample)

    def bind_time(self, model: str, name: str) -> RecordTime:
        """Where a time goes that the server measures for a model's handler.

        Args:
            model: Whose handler it is.
            name: One of TorchServe's metrics, in milliseconds.
        """
        own = {"ModelName": model, "Level": "Model"}
        if name not in self._listed and not self._auto_detect:
            return _nowhere
        labels = self._families[name].spec.dimensions if name in self._listed else list(own)
        if not own.keys() >= set(labels):
            return _nowhere
        return partial(self._record_time, model, name, [(label, own[label]) for label in labels])

    def _record_time(
        self,
        model: str,
        name: str,
        dimensions: list[tuple[str, str]],
        value_ms: float,
        request_ids: str,
    ) -> None:
        value = round(value_ms, 3)
        series = self._times.get((model, name))
        if series is not None:
            series.record(value)
            return
        sample = MetricSample(
            name=name,
            unit="ms",
            kind=MetricKind.GAUGE,
            value=value,
            dimensions=dimensions,
            request_ids=request_ids,
        )
        self.record(model, [sample])
        if self._on_page and (family := self._families.get(name)) is not None:
            labels = (*dimensions, (HOSTNAME, self._hostname))
            if family.has(labels):
                self._times[model, name] = family.labelled(labels)

    def render(self, names: Collection[str]) -> str:
        """The page's lines; with `names`, only samples of these names."""
        if not self._on_page:
            return ""
        return "".join(family.render(names) for family in self._families.values())

    def _family(self, sample: MetricSample, *, model: str) -> Family | _Refusal:
        """Where the sample belongs, or why it is dropped."""
        name = _fit_name(sample.name)
        family = self._families.get(name)
        if family is None:
            return self._detected(name, sample, model=model)
        spec = family.spec
        if name in self._listed:
            if [label for label, _ in sample.dimensions] != spec.dimensions:
                return _Refusal(name, "dimensions", f"metrics_config lists {spec.dimensions}")
        elif sample.kind is not spec.kind:
            return _Refusal(name, "kind", f"another handler has a {spec.kind.value} of that name")
        if not _adds_up(spec.kind, sample.value):
            return _Refusal(name, "value", f"no {spec.kind.value} takes {sample.value}")
        return family

    def _detected(self, name: str, sample: MetricSample, *, model: str) -> Family | _Refusal:
        """A metric that is not listed comes up for the first time."""
        if not self._auto_detect:
            return _Refusal(name, "unlisted", "metrics_config does not list it")
        series = series_names(name, sample.kind)
        if any(each in self._taken or each.startswith(OUR_PREFIXES) for each in series):
            return _Refusal(name, "name", "the server has one of that name")
        if not _adds_up(sample.kind, sample.value):
            return _Refusal(name, "value", f"no {sample.kind.value} takes {sample.value}")
        if self._num_names[model] >= MAX_NAMES:  # the name is not said: there may be no end of them
            return _Refusal("(new)", "names", f"the model has {MAX_NAMES} metrics already")
        self._num_names[model] += 1
        unit = UNIT_WORDS.get(sample.unit, sample.unit)[:_MAX_CHARS]
        return self._add(MetricSpec(name=name, unit=unit, kind=sample.kind, dimensions=[]))

    def _add(self, spec: MetricSpec) -> Family:
        family = self._families[spec.name] = Family(spec)
        self._taken.update(series_names(spec.name, spec.kind))
        return family

    def _put(self, family: Family, labels: Labels, sample: MetricSample, *, model: str) -> None:
        if not family.has(labels):
            name = family.spec.name
            if self._num_series[name, model] < MAX_SERIES:
                self._num_series[name, model] += 1
            else:
                self._dropped(model, "series")
                text = f"beyond {MAX_SERIES} series, label values become {OTHER!r}; use fewer"
                self._warn(model, _Refusal(name, "series", text), text)
                labels = tuple((key, v if key in _OWN else OTHER) for key, v in labels)
        family.labelled(labels).record(sample.value)

    def _warn(self, model: str, refusal: _Refusal, text: str) -> None:
        """Say it once."""
        key = (model, refusal.name, refusal.reason)
        if key not in self._warned and len(self._warned) < 10 * MAX_NAMES:
            self._warned.add(key)
            _log.warning("metric %s of model %s: %s", refusal.name, model, text)

    def _write(self, spec: MetricSpec, labels: Labels, sample: MetricSample) -> None:
        if model_log.isEnabledFor(logging.INFO):
            line = log_line(
                spec,
                sample.value,
                labels,
                hostname=self._hostname,
                now=self._clock(),
                request_ids=sample.request_ids,
            )
            model_log.info("%s", line)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a value is dropped: the reason in a word for the counter, the text for the log."""

    name: str
    reason: str
    text: str


def _adds_up(kind: MetricKind, value: float) -> bool:
    if kind is MetricKind.GAUGE:
        return True
    return math.isfinite(value) and (kind is MetricKind.HISTOGRAM or value >= 0)


def _labels(sample: MetricSample, *, is_listed: bool) -> Labels:
    """The dimensions as Prometheus allows them: no name twice, none of those that we add.

    An empty value is the same to it as none, so only a listed metric, all of whose series have the
    same labels, may have one.
    """
    fit = {_fit_label(name): value[:_MAX_CHARS] for name, value in sample.dimensions}
    return tuple(
        (name, value) for name, value in fit.items() if name not in _ADDED and (value or is_listed)
    )


def _fit_name(name: str) -> str:
    fit = _UNFIT_IN_NAMES.sub("_", name)[:_MAX_CHARS]
    return fit if fit and not fit[0].isdigit() else f"_{fit}"


def _fit_label(name: str) -> str:
    """Two underscores in front are Prometheus' own."""
    fit = _UNFIT_IN_LABELS.sub("_", name)[:_MAX_CHARS].lstrip("_")
    return fit if fit and not fit[0].isdigit() else f"_{fit}"


def _nowhere(value_ms: float, request_ids: str) -> None:
    """The metric is not listed."""
