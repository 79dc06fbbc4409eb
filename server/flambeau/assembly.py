"""What a server is made of, put together from its configuration."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prometheus_client import disable_created_metrics

from flambeau.api.auth import Guard
from flambeau.api.operations import Operations
from flambeau.child import Launch
from flambeau.config import ServeConfig
from flambeau.devices import DeviceCycle
from flambeau.downloads import Downloads
from flambeau.key_file import Tokens
from flambeau.metrics import Metrics
from flambeau.metrics_config import MetricsConfig
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host
from flambeau.packages import PackageLoader
from flambeau.registry import Registry
from flambeau.services import ServerParts
from flambeau.store import ModelStore
from flambeau.templates import Templates

# reads TorchServe's archives as well as ours
_WORKER_MODULE = "flambeau.torchserve.worker"


def make_parts(
    config: ServeConfig,
    environment: Mapping[str, str],
    store: ModelStore,
    tokens: Tokens | None,
    *,
    num_gpus: int,
) -> ServerParts:
    """What the server is made of, each part with those it works with."""
    # the `_created` series double the page and say little
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library annotates no result
    metrics = Metrics(
        MetricsConfig.read(config.metrics_config),
        mode=config.metrics_mode,
        auto_detect=config.model_metrics_auto_detect,
    )
    packages = PackageLoader(
        store,
        defaults=_default_settings(config),
        model_settings=config.model_settings,
        downloads=Downloads(config.model_store, allowed_urls=config.allowed_urls),
        default_handler=config.default_service_handler or None,
        install_py_dep_per_model=config.install_py_dep_per_model,
    )
    host = _host(config, environment, metrics, num_gpus=num_gpus)
    templates = Templates(
        Launch(command=(Path(sys.executable), _WORKER_MODULE), environment=host.environment),
        is_on=config.fork_workers and sys.platform == "linux",
    )
    registry = Registry(
        host=replace(host, start_process=templates.start_worker, forget=templates.forget),
        metrics=metrics,
        drain_timeout_s=config.drain_timeout_s,
        discard=packages.discard,
    )
    operations = Operations(
        registry,
        packages,
        enable_model_api=config.enable_model_api,
        default_workers=config.default_workers_per_model,
        unregister_timeout_s=config.unregister_timeout_s,
    )
    return ServerParts(
        config=config,
        registry=registry,
        packages=packages,
        operations=operations,
        metrics=metrics,
        guard=Guard(tokens.keys if tokens else None, status_400=config.token_status_400),
        templates=templates,
    )


def _default_settings(config: ServeConfig) -> ModelSettings:
    return ModelSettings(
        response_timeout_s=config.default_response_timeout_s,
        startup_timeout_s=config.default_startup_timeout_s,
        job_queue_size=config.job_queue_size,
        optimize=config.optimize,
    )


_WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # libgomp reads them when it is loaded


def _host(
    config: ServeConfig, environment: Mapping[str, str], metrics: Metrics, *, num_gpus: int
) -> Host:
    hidden = re.compile(config.blacklist_env_vars or r"(?!)")  # by default, no name matches
    kept = {
        key: value
        for key, value in environment.items()
        if not key.startswith("FLAMBEAU_") and not hidden.fullmatch(key)
    }
    if not _WAITING.intersection(kept):
        # a thread that spins at OpenMP's barriers takes the core that the front and others want
        kept["OMP_WAIT_POLICY"] = "PASSIVE"
    if config.use_torchserve_package:
        kept["FLAMBEAU_USE_TORCHSERVE_PACKAGE"] = "true"  # the worker module reads it
    return Host(
        devices=DeviceCycle(num_gpus),
        environment=kept,
        max_response_bytes=config.max_response_bytes,
        fixed_batch_window=config.fixed_batch_window,
        worker_module=_WORKER_MODULE,
        worker_ids=itertools.count(config.initial_worker_port),
        service_envelope=config.service_envelope or None,
        decode_inputs=config.decode_input_request,
        limit_max_image_pixels=config.limit_max_image_pixels,
        model_metrics=metrics.model_specs,
        metrics_auto_detect=metrics.auto_detect,
        sequence_headers=(
            config.sequence_id_header,
            config.sequence_start_header,
            config.sequence_end_header,
        ),
    )
