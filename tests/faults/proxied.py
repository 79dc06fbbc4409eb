"""`proxy.py`'s bad network in a thread of its own, for stories that are told straight on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator
from concurrent.futures import Future

from tests.faults.proxy import Fault, FaultProxy


@contextlib.contextmanager
def proxied(target: tuple[str, int], fault: Fault) -> Generator[FaultProxy]:
    """A proxy that leads to the target through a bad network."""
    started: Future[FaultProxy] = Future()
    loop: Future[asyncio.AbstractEventLoop] = Future()
    ended = asyncio.Event()

    async def run() -> None:
        async with FaultProxy(target=target, fault=fault) as proxy:
            loop.set_result(asyncio.get_running_loop())
            started.set_result(proxy)
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield started.result()
    finally:
        loop.result().call_soon_threadsafe(ended.set)
        thread.join()
