"""How a server process begins: its workers import PyTorch while it imports itself.

Each takes seconds, and needs a CPU of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from flambeau.errors import ConfigError
from flambeau.templates import Templates
from flambeau.worker_launch import worker_launch

if TYPE_CHECKING:
    from flambeau.audience import Audience
    from flambeau.binding import Bound
    from flambeau.config import ServeConfig
    from flambeau.services import MakeService


def run_server(
    config: ServeConfig,
    *,
    on_started: Callable[[Mapping[Audience, str]], None],
    environment: Mapping[str, str] = os.environ,
    services: Callable[[], Sequence[MakeService]] = tuple,
    sockets: Sequence[Bound] | None = None,
) -> int:
    """Serve until a signal; returns the exit code.

    Args:
        config: Everything the server needs to know.
        on_started: Called with each listener's address once all of them accept connections.
        environment: What workers get of it: all but our own settings and what is blacklisted.
        services: Imports and gives what runs beside the listeners, besides what every server does.
        sockets: Where it listens; None binds the addresses of the configuration.

    Raises:
        ConfigError: An address that cannot be bound, or another setting that cannot be used.
    """
    if sys.platform == "win32":
        raise ConfigError("the server needs POSIX sockets and signals; use Linux or macOS")
    import uvloop  # noqa: PLC0415  # absent on Windows

    async def work() -> int:
        launch = worker_launch(config, environment)
        is_on = config.fork_workers and sys.platform == "linux"
        async with Templates(launch, is_on=is_on) as templates:
            serving = await asyncio.to_thread(importlib.import_module, "flambeau.serving")
            beside = await asyncio.to_thread(services)
            exit_code: int = await serving.serve(
                config,
                templates=templates,
                on_started=on_started,
                services=beside,
                sockets=sockets,
            )
        return exit_code

    return uvloop.run(work())
