"""A server with TorchServe's settings, in this process until it is told to stop."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import flambeau
from flambeau.audience import Audience
from flambeau.services import MakeService, Service
from flambeau.starting import run_server
from flambeau.torchserve import TORCHSERVE_VERSION
from flambeau.torchserve.grpc.startup import make_grpc
from flambeau.torchserve.keystore import with_certificate
from flambeau.torchserve.log_files import CONSOLE, torchserve_logs
from flambeau.torchserve.places import Places
from flambeau.torchserve.settings import Settings
from flambeau.torchserve.snapshots import Snapshots
from flambeau.torchserve.workflows.service import make_workflows

_log = logging.getLogger(__name__)
_console = logging.getLogger(CONSOLE)


def run(settings: Settings, places: Places, *, snapshots: bool) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        settings: What to serve, and how.
        places: Where logs and snapshots go.
        snapshots: Whether to take snapshots.

    Raises:
        ConfigError: An address that cannot be bound, or another setting that cannot be used.
    """
    with torchserve_logs(places, level=settings.serve.log_level):
        _tell_source(settings, places)
        for notice in settings.notices:
            _log.warning(notice)
        services: list[MakeService] = [make_grpc, make_workflows, lambda _: _ReadinessLine()]
        if snapshots:
            values = settings.properties.values
            services.append(lambda parts: Snapshots(parts.registry, values, log_dir=places.logs))
        with with_certificate(settings.serve, settings.keystore) as config:
            return run_server(
                config,
                on_started=_show,
                environment=os.environ | worker_environment(settings, places),
                services=lambda: services,
            )


def _tell_source(settings: Settings, places: Places) -> None:
    """Say where the settings come from, and what they amount to."""
    properties = settings.properties
    if properties.file is None:
        _log.info("no configuration file: TorchServe's defaults and the command line hold")
    elif properties.from_snapshot:
        _log.warning(
            "starting from the snapshot %s: what it serves wins over --models and "
            "config.properties; start with --ncs to leave it out",
            properties.file,
        )
    else:
        _log.info("configuration file: %s", properties.file)
    config = settings.serve
    models = ", ".join(config.models) or "none"
    _log.info("TorchServe version: %s, by Flambeau %s", TORCHSERVE_VERSION, flambeau.__version__)
    _log.info("model store: %s", config.model_store)
    _log.info("models served from the start: %s", models)
    _log.info("logs: %s, logs of metrics: %s", places.logs, places.metrics)


def worker_environment(settings: Settings, places: Places) -> dict[str, str]:
    """What handlers find in their environment, as TorchServe gives it."""
    config = settings.serve
    return {
        "LOG_LOCATION": str(places.logs),
        "METRICS_LOCATION": str(places.metrics),
        "TS_DECODE_INPUT_REQUEST": str(config.decode_input_request).lower(),
        "TS_REQUEST_SEQUENCE_ID": config.sequence_id_header,
        "TS_REQUEST_SEQUENCE_START": config.sequence_start_header,
        "TS_REQUEST_SEQUENCE_END": config.sequence_end_header,
    }


class _ReadinessLine(Service):
    """Prints the line that scripts wait for: models are registered by then, not loaded."""

    def models_registered(self) -> None:
        _console.info("Model server started.")


def _show(urls: Mapping[Audience, str]) -> None:
    for audience, url in urls.items():
        _log.info("%s address: %s", audience.value.capitalize(), url)
