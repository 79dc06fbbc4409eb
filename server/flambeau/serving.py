"""The life of a server, in order: bind, load, serve until told to stop, drain, stop workers.

On SIGTERM or SIGINT: not ready -> stop accepting -> drain until the deadline -> stop workers ->
exit 0. A second signal drops what is still in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace

from fastapi import APIRouter, Request, Response
from prometheus_client import disable_created_metrics
from starlette.types import ASGIApp

from flambeau.api.health import health_router
from flambeau.api.inference import inference_router
from flambeau.api.management import management_router
from flambeau.api.operations import Operations
from flambeau.app import Audience, create_app
from flambeau.config import Address, ServeConfig
from flambeau.devices import DeviceCycle, count_gpus
from flambeau.errors import FlambeauError
from flambeau.listener import Listener, bound_socket, url_of
from flambeau.metrics import CONTENT_TYPE, Metrics
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host
from flambeau.packages import PackageLoader
from flambeau.registry import Registration, Registry
from flambeau.store import ModelStore

_log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0  # for the last answers to reach their clients once the deadline has passed


async def serve(config: ServeConfig, *, on_started: Callable[[dict[Audience, str]], None]) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        config: Everything it needs to know.
        on_started: Called with each listener's address once all of them accept connections.

    Raises:
        ConfigError: An address that cannot be bound.
    """
    num_gpus = count_gpus() if config.num_gpus < 0 else config.num_gpus
    default_workers = config.default_workers_per_model or max(1, num_gpus)
    # the `_created` series double the page and say little
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library annotates no result
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        store = stack.enter_context(ModelStore(config.model_store))
        packages = PackageLoader(store, defaults=_default_settings(config))
        registry = Registry(
            host=_host(config, num_gpus=num_gpus),
            metrics=metrics,
            drain_timeout_s=config.drain_timeout_s,
            discard=packages.discard,
        )
        apps = _apps(config, registry, packages, metrics)
        sockets = {
            audience: stack.enter_context(bound_socket(audience, address))
            for audience, address in _addresses(config).items()
        }
        stop = stack.enter_context(_StopSignal())
        listeners = {
            audience: Listener(apps[audience], sockets[audience], config) for audience in apps
        }
        for listener in listeners.values():
            await listener.start()
        on_started({a: url_of(s) for a, s in sockets.items()})
        loading = asyncio.ensure_future(
            _load_startup_models(config, registry, packages, workers=default_workers)
        )
        loaded_or_stop = {loading, stopped := asyncio.ensure_future(stop.wait())}
        await asyncio.wait(loaded_or_stop, return_when=asyncio.FIRST_COMPLETED)
        registry.startup_done()
        await stopped
        loading.cancel()
        await asyncio.wait({loading})
        await _shut_down(config, registry, listeners, stop)
    _log.info("server stopped")
    return 0


async def _shut_down(
    config: ServeConfig,
    registry: Registry,
    listeners: dict[Audience, Listener],
    stop: _StopSignal,
) -> None:
    """Drain until everything is answered, the deadline has passed, or a second signal comes."""
    _log.info("stopping: %s", stop.name)
    registry.stop_accepting()
    everyone = list(listeners.values())
    hurry = asyncio.ensure_future(stop.wait_again())
    await asyncio.wait({hurry}, timeout=config.drain_delay_s)
    draining = asyncio.ensure_future(_drain(config, registry, listeners))
    await asyncio.wait({hurry, draining}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        _log.warning("second signal: dropping what is still in flight")
        registry.hurry()
        for listener in everyone:
            listener.hurry()
    hurry.cancel()
    given_up = await draining
    _log.info("drained", extra={"requests_given_up": given_up})


async def _drain(
    config: ServeConfig, registry: Registry, listeners: dict[Audience, Listener]
) -> int:
    """Finish what is in flight, by the deadline; returns how many requests were given up.

    Inference first, so that management and metrics show the draining. Versions stay in the table
    until the deadline, because bodies may still be arriving.
    """
    inference = listeners.pop(Audience.INFERENCE)
    patience_s = config.drain_timeout_s + _LAST_WORDS_S
    stopping = asyncio.ensure_future(inference.stop(timeout_s=patience_s))
    await asyncio.wait({stopping}, timeout=config.drain_timeout_s)
    if not stopping.done():
        registry.hurry()  # the requests left are answered with errors of ours
    given_up = await registry.close()
    await stopping
    await asyncio.gather(*(each.stop(timeout_s=_LAST_WORDS_S) for each in listeners.values()))
    return given_up


async def _load_startup_models(
    config: ServeConfig, registry: Registry, packages: PackageLoader, *, workers: int
) -> None:
    """Register what `--models` names; one that fails leaves the server not ready."""
    for name, url in await packages.startup_urls(config.models):
        await _load_startup_model(name, url, registry, packages, workers=workers)


async def _load_startup_model(
    name: str | None, url: str, registry: Registry, packages: PackageLoader, *, workers: int
) -> None:
    try:
        package, settings = await packages.load(url)
        if settings.min_workers == 0:
            settings = settings.with_workers(workers)
        package = replace(package, at_startup=True)
        registry.register(Registration(package=package, settings=settings, model=name))
    except FlambeauError as error:
        registry.note_startup_failure(url, str(error))
        _log.error("%s is not served: %s", url, error)


def _apps(
    config: ServeConfig, registry: Registry, packages: PackageLoader, metrics: Metrics
) -> dict[Audience, ASGIApp]:
    routers = {
        Audience.INFERENCE: [
            inference_router(registry, max_request_bytes=config.max_request_bytes),
        ],
        Audience.MANAGEMENT: [
            management_router(
                Operations(
                    registry,
                    packages,
                    enable_model_api=config.enable_model_api,
                    default_workers=config.default_workers_per_model,
                )
            ),
        ],
        Audience.METRICS: [_metrics_router(metrics)],
    }
    return {
        audience: create_app(
            audience,
            [*own, health_router(registry)],
            metrics=metrics,
            access_log=config.access_log,
        )
        for audience, own in routers.items()
    }


def _metrics_router(metrics: Metrics) -> APIRouter:
    router = APIRouter()

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


def _host(config: ServeConfig, *, num_gpus: int) -> Host:
    environment = {key: v for key, v in os.environ.items() if not key.startswith("FLAMBEAU_")}
    return Host(
        devices=DeviceCycle(num_gpus),
        environment=environment,
        max_response_bytes=config.max_response_bytes,
        fixed_batch_window=config.fixed_batch_window,
    )


def _addresses(config: ServeConfig) -> dict[Audience, Address]:
    return {
        Audience.INFERENCE: config.inference_address,
        Audience.MANAGEMENT: config.management_address,
        Audience.METRICS: config.metrics_address,
    }


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
