"""What swaps cost the requests that come meanwhile, at half of what the server can answer.

Windows with swaps and windows without alternate, so that a slow minute hits both. A request's time
counts from when it was due; see `open_loop.py`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
import uvloop

from benchmarks import load, open_loop, report_growth, swap
from benchmarks.figures_growth import SwapCost
from benchmarks.server import serve

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from benchmarks.open_loop import Answered
    from benchmarks.server import Server

CONNECTIONS = 16
# a request of some milliseconds: the client, on the same cores, must not be what is measured
NUM_LAYERS = 32
FULL_S = 3.0


def measure(
    directory: Path, *, num_windows: int, swaps_per_window: int, quiet_s: float
) -> SwapCost:
    """Serve one version after the other under a steady load.

    Args:
        directory: An empty one, for the model store and the server's log.
        num_windows: With swaps; as many come without.
        swaps_per_window: One after the other, without a pause.
        quiet_s: Length of a window without.
    """
    num_swaps = num_windows * swaps_per_window
    swap.export_versions(directory / "model_store", count=num_swaps + 1, num_layers=NUM_LAYERS)
    body = directory / "body"
    body.write_bytes(bytes(4 * swap.NUM_FEATURES))
    with serve("--model-store", "model_store", "--no-access-log", cwd=directory) as server:
        server.register(swap.archive_name(1), num_workers=1, batch_size=8)
        url = f"{server.inference_url}/predictions/{swap.MODEL}"
        load.measure(url, body=body, connections=CONNECTIONS, seconds=1)  # warms up
        full = load.measure(url, body=body, connections=CONNECTIONS, seconds=FULL_S)
        windows = _Windows(server, url, body.read_bytes(), rate=full.requests_per_s / 2)
        uvloop.run(windows.run(num_windows, swaps_per_window, quiet_s=quiet_s))
    return windows.cost(full_rate=full.requests_per_s)


class _Windows:
    """One series of windows, and what was seen in them."""

    def __init__(self, server: Server, url: str, body: bytes, *, rate: float) -> None:
        # for all windows
        self._server = server
        self._url = url
        self._request = open_loop.post(url, body)
        self._rate = rate
        # so far
        self._quiet: list[Answered] = []
        self._swapping: list[Answered] = []
        self._flips = [swap.Flip(version=1, after=0.0, before=time.monotonic())]
        self._swaps_s: list[float] = []

    async def run(self, num_windows: int, swaps_per_window: int, *, quiet_s: float) -> None:
        async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
            for _ in range(num_windows):
                self._quiet += await self._answers(asyncio.sleep(quiet_s))
                self._swapping += await self._answers(self._swap(client, swaps_per_window))

    def cost(self, *, full_rate: float) -> SwapCost:
        answers = [_as_answer(answered) for answered in (*self._quiet, *self._swapping)]
        return SwapCost(
            num_swaps=len(self._swaps_s),
            full_rate=full_rate,
            quiet=open_loop.summarise(self._quiet, rate=self._rate),
            swapping=open_loop.summarise(self._swapping, rate=self._rate),
            num_wrong=swap.summarise(answers, self._flips, connections=CONNECTIONS).num_wrong,
            mean_swap_s=sum(self._swaps_s) / len(self._swaps_s),
        )

    async def _answers(self, until: Awaitable[object]) -> list[Answered]:
        return await open_loop.at_rate(
            self._url, self._request, rate=self._rate, connections=CONNECTIONS, until=until
        )

    async def _swap(self, client: httpx.AsyncClient, count: int) -> None:
        for _ in range(count):
            began_at = time.monotonic()
            number = len(self._flips) + 1
            flip = await swap.deploy(client, self._server.management_url, number=number)
            self._flips.append(flip)
            self._swaps_s.append(time.monotonic() - began_at)


def _as_answer(answered: Answered) -> swap.Answer:
    """What the judge of versions reads; an answer that is none is None."""
    version = None
    if answered.status == 200:
        version = round(msgspec.json.decode(answered.body, type=list[float])[0])
    return swap.Answer(sent_at=answered.sent_at, answered_at=answered.answered_at, version=version)


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="flambeau-half-load-") as directory:
        cost = measure(Path(directory), num_windows=5, swaps_per_window=4, quiet_s=4.0)
    print(report_growth.render_swaps(cost))
    return 0


if __name__ == "__main__":
    sys.exit(main())
