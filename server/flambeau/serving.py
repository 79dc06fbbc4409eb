"""The life of a server, in order: bind, load, serve until told to stop, drain, stop workers.

On SIGTERM or SIGINT: not ready -> stop accepting -> drain until the deadline -> stop workers ->
exit 0. A second signal drops what is still in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Iterable, Sequence

from flambeau.assembly import make_parts
from flambeau.audience import Audience
from flambeau.audit import audit_file
from flambeau.binding import Bound, bound_sockets
from flambeau.config import ServeConfig
from flambeau.devices import count_gpus
from flambeau.key_file import Tokens
from flambeau.listener import Listener
from flambeau.listening import listeners_of
from flambeau.memory import Memory
from flambeau.registry import Registry
from flambeau.services import MakeService, Service
from flambeau.signing import read_trust
from flambeau.startup import load_startup_models, startup_workers
from flambeau.stop_signal import StopSignal
from flambeau.store import ModelStore
from flambeau.system_sampler import make_system_sampler
from flambeau.templates import Templates

_log = logging.getLogger(__name__)

_GC_THRESHOLD = 20_000  # the requests under way are thousands of objects, none of them garbage
_LAST_WORDS_S = 1.0  # for the last answers to reach their clients once the deadline has passed

# what every server runs beside its listeners, as far as its configuration wants it
_SERVICES: tuple[MakeService, ...] = (make_system_sampler,)


async def serve(
    config: ServeConfig,
    *,
    templates: Templates,
    on_started: Callable[[dict[Audience, str]], None],
    services: Sequence[MakeService] = (),
    sockets: Sequence[Bound] | None = None,
) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        config: Everything it needs to know.
        templates: Where workers come from, while this runs.
        on_started: Called with each listener's address once all of them accept connections.
        services: What runs beside the listeners, besides what every server does.
        sockets: Where it listens; None binds the addresses of the configuration.

    Raises:
        ConfigError: An address that cannot be bound, a certificate or file that cannot be used, or
            a metrics configuration that is broken.
    """
    num_gpus = count_gpus()
    num_gpus = num_gpus if config.num_gpus < 0 else min(config.num_gpus, num_gpus)
    async with contextlib.AsyncExitStack() as stack:
        if sockets is None:
            sockets = stack.enter_context(bound_sockets(config))
        memory = await stack.enter_async_context(Memory.opened(config))
        trust = read_trust(
            config.signatures, trusted_keys=config.trusted_keys, revoked_keys=config.revoked_keys
        )
        store = stack.enter_context(
            ModelStore(config.model_store, trust=trust, kept=config.unpack_store)
        )
        stack.enter_context(audit_file(config.audit_log))
        tokens = stack.enter_context(Tokens.opened(config))
        parts = make_parts(config, store, tokens, templates, memory, num_gpus=num_gpus)
        registry, packages = parts.registry, parts.packages
        beside = [made for make in (*_SERVICES, *services) if (made := make(parts)) is not None]
        listeners = listeners_of(parts, sockets, tokens, beside)
        stop = stack.enter_context(StopSignal())
        gc.collect()
        gc.freeze()  # else each full collection walks FastAPI's objects, in the middle of requests
        gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])
        await _start([*beside, *listeners])
        on_started({audience: each.url for each in listeners for audience in each.audiences})
        loading = asyncio.ensure_future(
            load_startup_models(
                config,
                registry,
                packages,
                memory,
                workers=startup_workers(config, num_gpus=num_gpus),
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
    stop: StopSignal,
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
