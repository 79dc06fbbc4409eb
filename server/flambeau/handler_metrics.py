"""What handlers measure: `context.metrics`, with TorchServe's calls.

Values are kept as samples until the worker takes them along with its next answer; the front turns
them into series. Only what the metrics configuration lists is kept, unless it says to take
everything. Nothing here needs torch or YAML.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, SupportsFloat, TypeAlias

from flambeau.handler_metric import Dimension, HandlerMetric
from flambeau.messages import MetricKind, MetricSample, MetricSpec

_log = logging.getLogger(__name__)

MAX_SAMPLES: Final = 10_000  # between two answers
_MAX_NAMES: Final = 1_000  # that are not listed, of one model
_BUILT_IN: Final = {"HandlerTime", "PredictionTime"}  # not listed on purpose
_TIME_UNITS: Final = ("ms", "s")
_SIZE_UNITS: Final = ("MB", "kB", "GB", "B")

Dimensions: TypeAlias = Sequence[Dimension] | None


class MetricsCacheKeyError(KeyError):
    """No metric of this name and kind is known."""


class MetricsCacheTypeError(TypeError):
    """An argument is of another type than the call takes."""


class MetricsCacheValueError(ValueError):
    """An argument is none of the values that the call takes."""


class MetricsCache:
    """A model's metrics; its methods may be called from any thread.

    Attributes:
        model_name: The value of the dimension `ModelName`.
        request_ids: Request id by place in the batch, or one id for all.
        cache: The metrics by kind and name.
        store: Always empty; handlers made for older releases print what is in it.
    """

    def __init__(
        self, specs: Iterable[MetricSpec] = (), *, model_name: str = "", auto_detect: bool = False
    ) -> None:
        """Begin with the listed metrics.

        Args:
            specs: What the metrics configuration lists for handlers.
            model_name: The name the model is registered under.
            auto_detect: Keep values of other metrics, too.
        """
        # for the life of the model
        self.model_name = model_name
        self.cache: dict[MetricKind, dict[str, HandlerMetric]] = {}
        self.store: list[object] = []
        self._auto_detect = auto_detect
        self._listed: set[str] = set()
        self._refused: set[str] = set()
        self._lock = threading.RLock()
        # for the life of one batch
        self.request_ids: Mapping[int, str] | str | None = None
        # until they are taken
        self._samples: deque[MetricSample] = deque(maxlen=MAX_SAMPLES)
        self._num_lost = 0
        self._add_listed(specs)

    # what the worker calls

    def set_request_ids(self, request_ids: Mapping[int, str] | str | None) -> None:
        """Say which requests the next values belong to."""
        self.request_ids = request_ids

    def take(self) -> list[MetricSample]:
        """What was emitted since the last call, oldest first; at most `MAX_SAMPLES`."""
        with self._lock:
            samples, num_lost = list(self._samples), self._num_lost
            self._samples.clear()
            self._num_lost = 0
        if num_lost:
            _log.warning(
                "the handler emitted %d metric values for one answer; the first %d are dropped",
                len(samples) + num_lost,
                num_lost,
            )
        return samples

    # what handlers call

    def add_metric(  # noqa: PLR0917  # TorchServe's signature
        self,
        name: str,
        value: SupportsFloat,
        unit: str | int | None = None,
        idx: int | str | None = None,
        dimensions: Dimensions = None,
        metric_type: MetricKind = MetricKind.COUNTER,
    ) -> None:
        """Emit a value of any unit.

        Handlers made for releases before 0.8 give `idx` before `unit`, which is understood.

        Args:
            name: The metric's name.
            value: A number; not negative for a counter.
            unit: One of TorchServe's unit words, or your own.
            idx: The request's place in the batch; None stands for all requests.
            dimensions: In addition to the model's name and the level.
            metric_type: How values add up, unless the metrics configuration lists the name.
        """
        if isinstance(unit, int) or isinstance(idx, str):
            unit, idx = idx, unit
        if isinstance(unit, int) or isinstance(idx, str):
            raise MetricsCacheTypeError(f"metric {name}: unit is {unit!r} and idx {idx!r}")
        self._add(name, value, unit, idx=idx, dimensions=dimensions, kind=metric_type)

    def add_counter(
        self,
        name: str,
        value: SupportsFloat,
        idx: int | None = None,
        dimensions: Dimensions = None,
    ) -> None:
        """Add to a counter."""
        self._add(name, value, "count", idx=idx, dimensions=dimensions, kind=MetricKind.COUNTER)

    def add_time(  # noqa: PLR0917  # as above
        self,
        name: str,
        value: SupportsFloat,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Dimensions = None,
        metric_type: MetricKind = MetricKind.GAUGE,
    ) -> None:
        """Emit a duration; raises ValueError for units other than `ms` and `s`."""
        _require_unit(name, unit, _TIME_UNITS)
        self._add(name, value, unit, idx=idx, dimensions=dimensions, kind=metric_type)

    def add_size(  # noqa: PLR0917  # as above
        self,
        name: str,
        value: SupportsFloat,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Dimensions = None,
        metric_type: MetricKind = MetricKind.GAUGE,
    ) -> None:
        """Emit a size; raises ValueError for units other than `MB`, `kB`, `GB` and `B`."""
        _require_unit(name, unit, _SIZE_UNITS)
        self._add(name, value, unit, idx=idx, dimensions=dimensions, kind=metric_type)

    def add_percent(
        self,
        name: str,
        value: SupportsFloat,
        idx: int | None = None,
        dimensions: Dimensions = None,
        metric_type: MetricKind = MetricKind.GAUGE,
    ) -> None:
        """Emit a percentage, 0 to 100."""
        self._add(name, value, "percent", idx=idx, dimensions=dimensions, kind=metric_type)

    def add_error(self, name: str, value: SupportsFloat, dimensions: Dimensions = None) -> None:
        """Add to a counter of errors, whose level is `Error`."""
        level = [Dimension("Level", "Error")]
        self._add(
            name,
            value,
            "",
            idx=None,
            dimensions=[*_checked(dimensions), *level],
            kind=MetricKind.COUNTER,
        )

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricKind = MetricKind.COUNTER,
    ) -> HandlerMetric:
        """A new metric, in place of one of the same name and kind; nothing is emitted.

        Raises:
            MetricsCacheTypeError: An argument is of another type.
        """
        _require_type("metric_name", metric_name, str)
        _require_type("unit", unit, str)
        _require_type("metric_type", metric_type, MetricKind)
        if dimension_names:
            _require_type("dimension_names", dimension_names, (list, tuple))
        metric = HandlerMetric(metric_name, unit, dimension_names, metric_type, keep=self.keep)
        with self._lock:
            self.cache.setdefault(metric_type, {})[metric_name] = metric
        return metric

    def get_metric(
        self, metric_name: str, metric_type: MetricKind = MetricKind.COUNTER
    ) -> HandlerMetric:
        """A metric that is listed or was added.

        Raises:
            MetricsCacheKeyError: There is none of this name and kind.
            MetricsCacheTypeError: An argument is of another type.
        """
        _require_type("metric_name", metric_name, str)
        _require_type("metric_type", metric_type, MetricKind)
        with self._lock:
            metric = self.cache.get(metric_type, {}).get(metric_name)
        if metric is None:
            raise MetricsCacheKeyError(
                f"no {metric_type.value} is called {metric_name!r}; list it under model_metrics "
                "in metrics.yaml, or call add_metric_to_cache"
            )
        return metric

    # how values get to `take`

    def _add_listed(self, specs: Iterable[MetricSpec]) -> None:
        for spec in specs:
            self._listed.add(spec.name)
            self.add_metric_to_cache(spec.name, spec.unit, spec.dimensions, spec.kind)

    def _add(
        self,
        name: str,
        value: SupportsFloat,
        unit: str | None,
        *,
        idx: int | None,
        dimensions: Dimensions,
        kind: MetricKind,
    ) -> None:
        _require_type("name", name, str)
        _require_type("metric_type", kind, MetricKind)
        given = {dimension.name: dimension.value for dimension in _checked(dimensions)}
        given.setdefault("ModelName", self.model_name)
        given.setdefault("Level", "Model")
        metric = self._find(name, kind)
        if metric is None:
            metric = HandlerMetric(name, unit, list(given), kind, keep=self.keep)
            self._remember(metric)
        if not self._is_kept(metric.metric_name):
            return
        names = metric.dimension_names
        if set(names) <= given.keys():
            values = [given[name] for name in names]
        else:  # names of their own: TorchServe goes by the order
            values = list(given.values())
        metric.add_or_update(value, values, self._request_ids_of(idx))

    def _find(self, name: str, kind: MetricKind) -> HandlerMetric | None:
        """The metric to use: a listed one whatever its kind, else one that was added."""
        with self._lock:
            metric = self.cache.get(kind, {}).get(name)
            if metric is None and name in self._listed:
                metric = next(each[name] for each in self.cache.values() if name in each)
        return metric

    def _remember(self, metric: HandlerMetric) -> None:
        """Let `get_metric` find a metric that came up with its first value."""
        with self._lock:
            metrics = self.cache.setdefault(metric.metric_type, {})
            if len(metrics) < _MAX_NAMES:
                metrics[metric.metric_name] = metric

    def _request_ids_of(self, idx: int | None) -> str:
        ids = self.request_ids
        if not isinstance(ids, Mapping):
            return ids or ""
        one = None if idx is None else ids.get(idx)
        return ",".join(ids.values()) if one is None else one

    def keep(self, sample: MetricSample) -> None:
        """Take one value along, unless it is not listed."""
        if not self._is_kept(sample.name):
            return
        with self._lock:
            self._num_lost += len(self._samples) == MAX_SAMPLES
            self._samples.append(sample)

    def _is_kept(self, name: str) -> bool:
        """Whether values of a metric are wanted; says once when they are not."""
        if self._auto_detect or name in self._listed:
            return True
        if name not in self._refused:
            self._refuse(name)
        return False

    def _refuse(self, name: str) -> None:
        with self._lock:
            is_new = name not in self._refused and len(self._refused) < _MAX_NAMES
            self._refused |= {name} if is_new else set()
        if is_new and name not in _BUILT_IN:
            _log.warning(
                "metric %s is dropped: list it under model_metrics in metrics.yaml "
                "(metrics_config), or set model_metrics_auto_detect",
                name,
            )


def _checked(dimensions: Dimensions) -> Sequence[Dimension]:
    if dimensions is None:
        return ()
    if not isinstance(dimensions, (list, tuple)):
        raise MetricsCacheValueError(f"dimensions is {dimensions!r}; give a list of Dimension")
    return dimensions


def _require_unit(name: str, unit: str, known: Sequence[str]) -> None:
    if unit not in known:
        raise MetricsCacheValueError(
            f"the unit of {name} is {unit!r}; use one of {', '.join(known)}"
        )


def _require_type(argument: str, value: object, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind):
        raise MetricsCacheTypeError(f"{argument} is {value!r}, a {type(value).__name__}")
