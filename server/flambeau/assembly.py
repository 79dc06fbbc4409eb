"""What a server is made of, put together from its configuration."""

from __future__ import annotations

import itertools

from prometheus_client import disable_created_metrics

from flambeau.allowed_hosts import AllowedHosts
from flambeau.api.auth import Guard
from flambeau.api.operations import Operations
from flambeau.config import ServeConfig
from flambeau.devices import DeviceCycle
from flambeau.downloads import Downloads
from flambeau.key_file import Tokens
from flambeau.memory import Memory
from flambeau.messages import Isolation
from flambeau.metrics import Metrics
from flambeau.metrics_config import MetricsConfig
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host
from flambeau.packages import PackageLoader
from flambeau.registry import Registry
from flambeau.requirements import PipOptions
from flambeau.services import ServerParts
from flambeau.store import ModelStore
from flambeau.templates import Templates


def make_parts(
    config: ServeConfig,
    store: ModelStore,
    tokens: Tokens | None,
    templates: Templates,
    memory: Memory,
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
        downloads=Downloads(
            config.model_store,
            allowed_urls=config.allowed_urls,
            allowed_hosts=AllowedHosts(config.allowed_hosts, private=config.private_hosts),
            require_sha256=config.require_sha256,
        ),
        default_handler=config.default_service_handler or None,
        install_py_dep_per_model=config.install_py_dep_per_model,
        pip=PipOptions(
            require_hashes=config.requirements_require_hashes,
            find_links=config.requirements_find_links,
            timeout_s=config.requirements_timeout_s,
        ),
    )
    registry = Registry(
        host=_host(config, templates, metrics, num_gpus=num_gpus),
        metrics=metrics,
        drain_timeout_s=config.drain_timeout_s,
        discard=packages.discard,
        memory=memory,
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
        guard=Guard(
            tokens.keys if tokens else None,
            status_400=config.token_status_400,
            on_refused=lambda role: metrics.token_refused(role.value),
        ),
    )


def _default_settings(config: ServeConfig) -> ModelSettings:
    return ModelSettings(
        response_timeout_s=config.default_response_timeout_s,
        startup_timeout_s=config.default_startup_timeout_s,
        job_queue_size=config.job_queue_size,
        optimize=config.optimize,
        isolation=config.isolation,
        read_paths=config.worker_read_paths,
        write_paths=config.worker_write_paths,
        quarantine_s=config.quarantine_s,
    )


def _host(config: ServeConfig, templates: Templates, metrics: Metrics, *, num_gpus: int) -> Host:
    return Host(
        devices=DeviceCycle(num_gpus),
        environment=templates.launch.environment,
        worker_module=templates.launch.command[1],
        start_process=templates.start_worker,
        forget=templates.forget,
        max_response_bytes=config.max_response_bytes,
        fixed_batch_window=config.fixed_batch_window,
        worker_ids=itertools.count(config.initial_worker_port),
        service_envelope=config.service_envelope or None,
        decode_inputs=config.decode_input_request,
        limit_max_image_pixels=config.limit_max_image_pixels,
        model_metrics=metrics.model_specs,
        metrics_auto_detect=metrics.auto_detect,
        shows_digests=config.archive_digest_header,
        limits=Isolation(
            max_open_files=config.worker_max_open_files,
            max_processes=config.worker_max_processes,
            max_file_bytes=config.worker_max_file_bytes,
        ),
        sequence_headers=(
            config.sequence_id_header,
            config.sequence_start_header,
            config.sequence_end_header,
        ),
    )
