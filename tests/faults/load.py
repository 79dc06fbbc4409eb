"""Clients that ask a `faulty` model all the time, from a thread of their own.

    with Load(url, Plan(model="m", num_requests=300), seed=1, ledger=ledger) as load:
        load.wait_ended(100)
        os.kill(pid, signal.SIGKILL)

Leaving the block lets them send what is left of the plan's requests, and waits for the last
answers. A closed loop: each of 16 clients has one connection and sends again once it is answered,
not faster than the plan's rate. An open one sends at the rate, whatever became of those before.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType

import httpx

from tests.faults.ledger import Ledger, Sent

NUM_CLIENTS = 16
_OPEN_CONNECTIONS = 400


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send.

    Attributes:
        model: To which model.
        num_requests: At least as many.
        version: Which one the path names; None for the default.
        rate: Requests per second, at most; on average, at seeded random moments.
        is_open: Whether the rate holds whatever the server does.
        work_ms: How long the model works for each call.
        fault: What the poisonous requests do.
        poisonous: Their places among all.
        deadline_s: How long a client waits for an answer.
        max_s: How long it may take in all.
        pause_when_cut_s: Between a refused connection and the next, so that it does not spin.
        names_nonces: Whether the path has each request's nonce, so that access logs have it.
        keeps_connections: Whether a client sends its next request where the last was answered.
    """

    model: str
    num_requests: int
    version: str | None = None
    rate: float = 250.0
    is_open: bool = False
    work_ms: float = 0.0
    fault: str | None = None
    poisonous: frozenset[int] = frozenset()
    deadline_s: float = 10.0
    max_s: float = 120.0
    pause_when_cut_s: float = 0.02
    names_nonces: bool = False
    keeps_connections: bool = True

    def path(self, nonce: int) -> str:
        """Where a request goes."""
        path = f"/predictions/{self.model}" + (f"/{self.version}" if self.version else "")
        return f"{path}?nonce={nonce}" if self.names_nonces else path


class Load:
    """A plan being carried out; a context manager."""

    def __init__(self, url: str, plan: Plan, *, seed: int, ledger: Ledger) -> None:
        # for the life of the load
        self._url = url
        self._plan = plan
        self._random = random.Random(seed)
        self._ledger = ledger
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._changed = threading.Condition()
        self._places = itertools.count()
        # so far
        self._began_at = 0.0
        self._next_due_at = 0.0
        self._num_sent = 0
        self._num_ended = 0
        self._may_end = False

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._may_end = True
        if kind is not None:
            self._num_sent = self._plan.num_requests  # the case has failed: send no more
        self._thread.join()

    @property
    def num_ended(self) -> int:
        return self._num_ended

    def wait_ended(self, count: int) -> None:
        """Wait until so many more requests have ended; TimeoutError when they do not."""
        until = self._num_ended + count
        with self._changed:
            if not self._changed.wait_for(lambda: self._num_ended >= until, self._plan.max_s):
                raise TimeoutError(f"{self._num_ended} of {until} requests have ended")

    async def _run(self) -> None:
        self._began_at = self._next_due_at = time.monotonic()
        async with AsyncExitStack() as stack:
            if self._plan.is_open:
                client = await stack.enter_async_context(self._client(_OPEN_CONNECTIONS))
                await self._send_at_rate(client)
                return
            clients = [await stack.enter_async_context(self._client(1)) for _ in range(NUM_CLIENTS)]
            await asyncio.gather(*(self._send_in_turn(*each) for each in enumerate(clients)))

    def _client(self, num_connections: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url,
            limits=httpx.Limits(
                max_connections=num_connections,
                max_keepalive_connections=num_connections if self._plan.keeps_connections else 0,
            ),
            timeout=self._plan.deadline_s,
            verify=False,  # noqa: S501  # plain HTTP; making a context takes long
            trust_env=False,
        )

    async def _send_in_turn(self, number: int, client: httpx.AsyncClient) -> None:
        async for place in self._due():
            await self._send(client, self._request(place, client=number))

    async def _send_at_rate(self, client: httpx.AsyncClient) -> None:
        sending: set[asyncio.Task[None]] = set()
        async for place in self._due():
            request = self._request(place, client=place)
            sending.add(asyncio.create_task(self._send(client, request)))
        await asyncio.gather(*sending)

    async def _due(self) -> AsyncIterator[int]:
        """The places of requests, when they are due, as long as there are any."""
        while not self._is_over():
            self._num_sent += 1
            place = next(self._places)
            self._next_due_at += self._random.expovariate(self._plan.rate)
            now = time.monotonic()
            if not self._plan.is_open:  # what could not be sent in time is not made up for
                self._next_due_at = max(self._next_due_at, now)
            await asyncio.sleep(max(0.0, self._next_due_at - now))
            yield place

    def _is_over(self) -> bool:
        is_done = self._may_end and self._num_sent >= self._plan.num_requests
        return is_done or time.monotonic() > self._began_at + self._plan.max_s

    def _request(self, place: int, *, client: int) -> Sent:
        fault = self._plan.fault if place in self._plan.poisonous else None
        x = self._random.randrange(1_000_000)
        nonce = self._ledger.next_nonce()
        return Sent(nonce=nonce, x=x, client=client, fault=fault, at=time.monotonic())

    async def _send(self, client: httpx.AsyncClient, sent: Sent) -> None:
        try:
            body = document_of(sent, work_ms=self._plan.work_ms)
            answer = await client.post(self._plan.path(sent.nonce), json=body)
        except httpx.TransportError as error:
            self._ledger.failed(sent, error)
            if isinstance(error, httpx.ConnectError):
                await asyncio.sleep(self._plan.pause_when_cut_s)
        else:
            self._ledger.answered(sent, answer)
        with self._changed:
            self._num_ended += 1
            self._changed.notify_all()


def document_of(sent: Sent, *, work_ms: float) -> dict[str, object]:
    """A request's body.

    Args:
        sent: The request.
        work_ms: How long the model works for it; left out if that is 0.
    """
    body: dict[str, object] = {"x": sent.x, "nonce": sent.nonce}
    if work_ms:
        body["work_ms"] = work_ms
    if sent.fault is not None:
        body["fault"] = sent.fault
    return body
