"""The life of a server, in order: bind, load, serve until told to stop, drain, stop workers.

On SIGTERM or SIGINT: not ready -> stop accepting -> drain until the deadline -> stop workers ->
exit 0. A second signal drops what is still in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from fastapi import APIRouter, Request, Response
from prometheus_client import disable_created_metrics

from flambeau.api.auth import Guard, OpenRoute, token_router
from flambeau.api.health import health_router
from flambeau.api.inference import InferenceAPI
from flambeau.api.management import management_router
from flambeau.api.open_inference import open_inference_routers
from flambeau.api.operations import Operations
from flambeau.app import Audience, create_app
from flambeau.config import Address, ServeConfig
from flambeau.devices import DeviceCycle, count_gpus
from flambeau.downloads import Downloads
from flambeau.key_file import Tokens
from flambeau.listener import Listener
from flambeau.metrics import CONTENT_TYPE, Metrics
from flambeau.metrics_config import MetricsConfig
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host
from flambeau.packages import PackageLoader
from flambeau.registry import Registry
from flambeau.services import MakeService, ServerParts, Service
from flambeau.startup import load_startup_models, startup_workers
from flambeau.store import ModelStore
from flambeau.system_sampler import make_system_sampler
from flambeau.tls import tls_context

_log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0  # for the last answers to reach their clients once the deadline has passed

# reads TorchServe's archives as well as ours
_WORKER_MODULE = "flambeau.torchserve.worker"

# what every server runs beside its listeners, as far as its configuration wants it
_SERVICES: tuple[MakeService, ...] = (make_system_sampler,)


async def serve(
    config: ServeConfig,
    *,
    on_started: Callable[[dict[Audience, str]], None],
    environment: Mapping[str, str] = os.environ,
    services: Sequence[MakeService] = (),
) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        config: Everything it needs to know.
        on_started: Called with each listener's address once all of them accept connections.
        environment: What workers get of it: all but our own settings and what is blacklisted.
        services: What runs beside the listeners, besides what every server does.

    Raises:
        ConfigError: An address that cannot be bound, a certificate that cannot be used, or a
            metrics configuration that is broken.
    """
    num_gpus = count_gpus()
    num_gpus = num_gpus if config.num_gpus < 0 else min(config.num_gpus, num_gpus)
    async with contextlib.AsyncExitStack() as stack:
        store = stack.enter_context(ModelStore(config.model_store))
        tokens = stack.enter_context(Tokens.opened(config))
        parts = _parts(config, environment, store, tokens, num_gpus=num_gpus)
        registry, packages = parts.registry, parts.packages
        beside = [made for make in (*_SERVICES, *services) if (made := make(parts)) is not None]
        listeners = [stack.enter_context(opened) for opened in _listeners(parts, tokens, beside)]
        stop = stack.enter_context(_StopSignal())
        await _start([*beside, *listeners])
        on_started({audience: each.url for each in listeners for audience in each.audiences})
        loading = asyncio.ensure_future(
            load_startup_models(
                config, registry, packages, workers=startup_workers(config, num_gpus=num_gpus)
            )
        )
        loaded_or_stop = {loading, stopped := asyncio.ensure_future(stop.wait())}
        await asyncio.wait(loaded_or_stop, return_when=asyncio.FIRST_COMPLETED)
        registry.startup_done()
        if loading.done():
            loading.result()  # one model's failure is noted; anything else ends the server
            for service in beside:
                service.models_registered()
        await stopped
        packages.stop()
        loading.cancel()
        await asyncio.wait({loading})
        # predictions come over the first listener and over services; all of these end first
        await _shut_down(config, registry, [*beside, listeners[0]], listeners[1:], stop)
    _log.info("server stopped")
    return 0


def _parts(
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
    registry = Registry(
        host=_host(config, environment, metrics, num_gpus=num_gpus),
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
    )


async def _start(everything: Sequence[Service | Listener]) -> None:
    """Start one after the other; when one cannot, stop those before it."""
    started: list[Service | Listener] = []
    try:
        for each in everything:
            await each.start()
            started.append(each)
    except BaseException:
        await _stop(started, timeout_s=0.0)
        raise


async def _stop(everything: Iterable[Service | Listener], *, timeout_s: float) -> None:
    await asyncio.gather(*(each.stop(timeout_s=timeout_s) for each in everything))


async def _shut_down(
    config: ServeConfig,
    registry: Registry,
    first: Sequence[Service | Listener],
    last: Sequence[Listener],
    stop: _StopSignal,
) -> None:
    """Drain until everything is answered, the deadline has passed, or a second signal comes."""
    _log.info("stopping: %s", stop.name)
    registry.stop_accepting()
    hurry = asyncio.ensure_future(stop.wait_again())
    await asyncio.wait({hurry}, timeout=config.drain_delay_s)
    draining = asyncio.ensure_future(_drain(config, registry, first, last))
    await asyncio.wait({hurry, draining}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        _log.warning("second signal: dropping what is still in flight")
        registry.hurry()
        for each in (*first, *last):
            each.hurry()
    hurry.cancel()
    given_up = await draining
    _log.info("drained", extra={"requests_given_up": given_up})


async def _drain(
    config: ServeConfig,
    registry: Registry,
    first: Sequence[Service | Listener],
    last: Sequence[Listener],
) -> int:
    """Finish what is in flight, by the deadline; returns how many requests were given up.

    Inference first, so that management and metrics show the draining. Versions stay in the table
    until the deadline, because bodies may still be arriving.
    """
    patience_s = config.drain_timeout_s + _LAST_WORDS_S
    stopping = asyncio.ensure_future(_stop(first, timeout_s=patience_s))
    await asyncio.wait({stopping}, timeout=config.drain_timeout_s)
    if not stopping.done():
        registry.hurry()  # the requests left are answered with errors of ours
    given_up = await registry.close()
    await stopping
    await _stop(last, timeout_s=_LAST_WORDS_S)
    return given_up


def routers_of(
    parts: ServerParts, tokens: Tokens | None, beside: Sequence[Service]
) -> dict[Audience, list[APIRouter]]:
    """What each audience is offered, by the server and by its services."""
    max_bytes = parts.config.max_request_bytes
    offered = {
        Audience.INFERENCE: [
            InferenceAPI(parts.registry, max_request_bytes=max_bytes).router(),
            *(
                open_inference_routers(parts.registry)
                if parts.config.open_inference_protocol
                else []
            ),
        ],
        Audience.MANAGEMENT: [
            management_router(parts.operations),
            *([token_router(tokens)] if tokens else []),
        ],
        Audience.METRICS: [_metrics_router(parts.metrics)],
    }
    for service in beside:
        for audience, router in service.routers().items():
            offered[audience].append(router)
    return offered


def _listeners(
    parts: ServerParts, tokens: Tokens | None, beside: Sequence[Service]
) -> Iterator[AbstractContextManager[Listener]]:
    """One listener for each address, those of predictions first."""
    config, routers = parts.config, routers_of(parts, tokens, beside)
    groups = list(_listening(config))
    tls = tls_context(config) if any(address.tls for address, _ in groups) else None
    for address, audiences in groups:
        offered = itertools.chain.from_iterable(routers[audience] for audience in audiences)
        app = create_app(
            audiences,
            [*offered, health_router(parts.registry)],
            config=config,
            metrics=parts.metrics,
            guard=parts.guard,
        )
        yield Listener.open(app, audiences, address, config=config, tls=tls)


def _metrics_router(metrics: Metrics) -> APIRouter:
    router = APIRouter(route_class=OpenRoute)

    @router.get("/metrics", operation_id="metrics")
    async def scrape(request: Request) -> Response:
        """The Prometheus exposition; `name[]` keeps the samples of that name only."""
        names = request.query_params.getlist("name[]")
        return Response(metrics.render(names), headers={"content-type": CONTENT_TYPE})

    return router


def _default_settings(config: ServeConfig) -> ModelSettings:
    return ModelSettings(
        response_timeout_s=config.default_response_timeout_s,
        startup_timeout_s=config.default_startup_timeout_s,
        job_queue_size=config.job_queue_size,
    )


def _host(
    config: ServeConfig, environment: Mapping[str, str], metrics: Metrics, *, num_gpus: int
) -> Host:
    hidden = re.compile(config.blacklist_env_vars or r"(?!)")  # by default, no name matches
    kept = {
        key: value
        for key, value in environment.items()
        if not key.startswith("FLAMBEAU_") and not hidden.fullmatch(key)
    }
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


def _listening(config: ServeConfig) -> Iterator[tuple[Address, tuple[Audience, ...]]]:
    """Each address and who is served there: one listener for those who share it; inference first.

    Port 0 is the kernel's to choose, so it is never the same twice.
    """
    wanted = {
        Audience.INFERENCE: config.inference_address,
        Audience.MANAGEMENT: config.management_address,
    }
    if config.metrics_api:
        wanted[Audience.METRICS] = config.metrics_address
    groups: list[tuple[Address, tuple[Audience, ...]]] = []
    for audience, address in wanted.items():
        for place, (other, audiences) in enumerate(groups):
            if address == other and (address.port or address.path):
                groups[place] = (address, (*audiences, audience))
                break
        else:
            groups.append((address, (audience,)))
    yield from groups


class _StopSignal:
    """Turns SIGTERM and SIGINT into something to wait for; the second one ends all waiting."""

    def __init__(self) -> None:
        self.name = ""
        self._first = asyncio.Event()
        self._second = asyncio.Event()

    def __enter__(self) -> _StopSignal:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    async def wait(self) -> None:
        await self._first.wait()

    async def wait_again(self) -> None:
        await self._second.wait()

    def _received(self, number: signal.Signals) -> None:
        self.name = self.name or number.name
        (self._second if self._first.is_set() else self._first).set()
