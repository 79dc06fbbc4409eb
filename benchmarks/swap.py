"""Versions replaced while clients ask: is anything lost, or answered by a version not live?

Each version answers with its own number. A client notes when it sent a request and when it had the
answer; a deployment tells when its version became the default. An answer is wrong when its version
was not the default at any moment in between.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import torch

import flambeau
from benchmarks.figures import Swaps, percentile
from benchmarks.server import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "numbered"
NUM_FEATURES = 64
WIDTH = 512


class Numbered(torch.nn.Module):
    """Answers with its own number, whatever the input, after so many layers of work."""

    def __init__(self, number: int, *, num_layers: int = 0) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.tensor(float(number)))
        self.widen = torch.nn.Linear(NUM_FEATURES, WIDTH)
        self.layer = torch.nn.Linear(WIDTH, WIDTH)
        self.num_layers = num_layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.widen(x)
        for _ in range(self.num_layers):
            x = torch.tanh(self.layer(x))
        return x.sum(dim=1, keepdim=True) * 0.0 + self.number


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One request; `version` is None when it failed. Times are of one monotonic clock."""

    sent_at: float
    answered_at: float
    version: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """A version became the default at some moment from `after` to `before`."""

    version: int
    after: float
    before: float


def could_answer(flips: Sequence[Flip], *, sent_at: float, answered_at: float) -> set[int]:
    """Versions that may have been the default at some moment of a request.

    Args:
        flips: In order of time; the first is the version at the start.
        sent_at: Before the request left the client.
        answered_at: After the whole answer was there.
    """
    ends = [flip.before for flip in flips[1:]] + [float("inf")]
    return {
        flip.version
        for flip, end in zip(flips, ends, strict=True)
        if flip.after <= answered_at and sent_at <= end
    }


def measure(directory: Path, *, num_swaps: int, num_requests: int, connections: int) -> Swaps:
    """Run a server, replace its model so many times, and ask all the while.

    Args:
        directory: An empty one, for the model store and the server's log.
        num_swaps: Deployments, spread evenly over the requests.
        num_requests: The fewest to send.
        connections: Clients that ask one after the other.
    """
    export_versions(directory / "model_store", count=num_swaps + 1)
    with serve("--model-store", "model_store", "--no-access-log", cwd=directory) as server:
        server.register(archive_name(1), num_workers=1, batch_size=8)
        traffic = Traffic(url=f"{server.inference_url}/predictions/{MODEL}")
        flips = asyncio.run(
            _swap_under(
                traffic,
                management_url=server.management_url,
                num_swaps=num_swaps,
                num_requests=num_requests,
                connections=connections,
            )
        )
    return summarise(traffic.answers, flips, connections=connections)


def export_versions(store: Path, *, count: int, num_layers: int = 0) -> None:
    """Write archives of versions from 1 on; `num_layers` makes them as slow as is wanted."""
    store.mkdir()
    for number in range(1, count + 1):
        flambeau.export(
            Numbered(number, num_layers=num_layers),
            torch.zeros(2, NUM_FEATURES),
            name=MODEL,
            version=str(number),
            path=store / archive_name(number),
        )


def archive_name(number: int) -> str:
    """The file of a version."""
    return f"{MODEL}-{number}.mar"


def summarise(answers: Sequence[Answer], flips: Sequence[Flip], *, connections: int) -> Swaps:
    """Count what happened; `answers` has at least one."""
    good = [answer for answer in answers if answer.version is not None]
    wrong = [
        answer
        for answer in good
        if answer.version
        not in could_answer(flips, sent_at=answer.sent_at, answered_at=answer.answered_at)
    ]
    seen = {str(flip.version): 0 for flip in flips}
    for answer in good:
        seen[str(answer.version)] = seen.get(str(answer.version), 0) + 1
    durations_ms = [(answer.answered_at - answer.sent_at) * 1000 for answer in answers]
    return Swaps(
        connections=connections,
        num_swaps=len(flips) - 1,
        num_requests=len(answers),
        num_failed=len(answers) - len(good),
        num_wrong=len(wrong),
        versions_seen=seen,
        p50_ms=percentile(durations_ms, 50),
        p99_ms=percentile(durations_ms, 99),
        max_ms=max(durations_ms),
        duration_s=max(a.answered_at for a in answers) - min(a.sent_at for a in answers),
    )


@dataclass(slots=True)
class Traffic:
    """Clients that ask one after the other until told to stop, and what they were answered."""

    url: str
    answers: list[Answer] = field(default_factory=list[Answer])
    is_enough: bool = False
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def ask(self, client: httpx.AsyncClient) -> None:
        """One client."""
        body = bytes(4 * NUM_FEATURES)
        headers = {"content-type": "application/octet-stream"}
        while not self.is_enough:
            sent_at = time.monotonic()
            try:
                response = await client.post(self.url, content=body, headers=headers)
                version = round(response.json()[0]) if response.status_code == 200 else None
            except (httpx.HTTPError, ValueError, LookupError, TypeError):
                version = None
            answered_at = time.monotonic()
            self.answers.append(Answer(sent_at=sent_at, answered_at=answered_at, version=version))
            async with self._news:
                self._news.notify_all()

    async def wait_answered(self, count: int) -> None:
        """Wait until so many requests have been answered in all."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.answers) >= count)


async def _swap_under(
    traffic: Traffic, *, management_url: str, num_swaps: int, num_requests: int, connections: int
) -> list[Flip]:
    per_version = -(-num_requests // (num_swaps + 1))
    flips = [Flip(version=1, after=0.0, before=time.monotonic())]
    limits = httpx.Limits(max_connections=connections + 1)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
        clients = [asyncio.ensure_future(traffic.ask(client)) for _ in range(connections)]
        try:
            for number in range(2, num_swaps + 2):
                await traffic.wait_answered(len(traffic.answers) + per_version)
                flips.append(await deploy(client, management_url, number=number))
            await traffic.wait_answered(max(num_requests, len(traffic.answers) + per_version))
        finally:
            traffic.is_enough = True
            await asyncio.gather(*clients)
    return flips


async def deploy(client: httpx.AsyncClient, management_url: str, *, number: int) -> Flip:
    """Replace the default version and wait until the old one is gone.

    Raises:
        RuntimeError: The deployment failed.
    """
    url = f"{management_url}/models/{MODEL}/deploy"
    query: dict[str, str | int] = {
        "url": archive_name(number),
        "initial_workers": 1,
        "batch_size": 8,
    }
    after = before = time.monotonic()
    step = "nothing"
    async with client.stream("POST", url, params=query) as response:
        async for line in response.aiter_lines():
            step = json.loads(line).get("step", line)
            if step == "default":
                before = time.monotonic()
    if step != "done":
        raise RuntimeError(f"deploying version {number} ended with {step}")
    return Flip(version=number, after=after, before=before)
