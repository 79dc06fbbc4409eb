"""A handler's metrics without a server: listed in a file, written to the log.

Handlers' own tests make one and put it into a `Context`; what workers give to handlers is
`flambeau.handler_metrics.MetricsCache`, which has the same calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flambeau.handler_metric import write
from flambeau.handler_metrics import (
    MetricsCache,
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from flambeau.messages import MetricKind, MetricSample
from flambeau.torchserve.metrics.errors import MetricsCacheIOError, MetricsCachePyYamlError

_SECTION = "model_metrics"


class MetricsCacheYamlImpl(MetricsCache):
    """The metrics that a `metrics.yaml` lists for handlers.

    Attributes:
        config_file_path: The file.
    """

    def __init__(self, config_file_path: str | Path) -> None:
        """Read the file; `initialize_cache` adds its metrics.

        Raises:
            MetricsCacheTypeError: No path is given.
            MetricsCacheIOError: The file cannot be read.
            MetricsCachePyYamlError: It is not YAML.
        """
        super().__init__(auto_detect=True)
        if not config_file_path:
            raise MetricsCacheTypeError("config_file_path is empty; give a metrics.yaml")
        self.config_file_path = config_file_path
        try:
            self._document: Any = yaml.safe_load(Path(config_file_path).read_text("utf-8"))
        except OSError as error:
            raise MetricsCacheIOError(f"{config_file_path} cannot be read: {error}") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise MetricsCachePyYamlError(f"{config_file_path} is not YAML: {error}") from error

    def initialize_cache(self) -> None:
        """Add what is listed under `model_metrics`.

        Raises:
            MetricsCacheKeyError: The section, or a key of a metric, is missing or unknown.
            MetricsCacheValueError: The section is empty.
        """
        if not isinstance(self._document, dict) or _SECTION not in self._document:
            raise MetricsCacheKeyError(f"{self.config_file_path} has no {_SECTION}")
        section = self._document[_SECTION]
        if not isinstance(section, dict) or not section:
            raise MetricsCacheValueError(f"{_SECTION} of {self.config_file_path} lists nothing")
        for word, entries in section.items():
            if word not in {kind.value for kind in MetricKind}:
                raise MetricsCacheKeyError(f"{_SECTION}.{word} is no kind of metric")
            for entry in entries or ():
                self._add_entry(entry, MetricKind(word))

    def keep(self, sample: MetricSample) -> None:
        write(sample)

    def _add_entry(self, entry: dict[str, Any], kind: MetricKind) -> None:
        try:
            name, unit, dimensions = (entry[key] for key in ("name", "unit", "dimensions"))
        except (KeyError, TypeError) as error:
            raise MetricsCacheKeyError(f"{_SECTION}: {entry} has no {error}") from error
        self.add_metric_to_cache(name, unit, dimensions, kind)
