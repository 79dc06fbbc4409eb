"""How long a client may take: one timer for each connection, which looks at the clock.

    watch.idle()        the last response has ended
    watch.arriving(...) a part of a request has come, and the rest has not
    watch.unread()      the client reads slowly
    watch.ending()      the connection is being closed

A request that comes in one piece costs no timer, and a connection that is used again and again
keeps the one it has.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from flambeau.socket_state import unsent_bytes

MIN_BYTES_PER_S: Final = 8 << 10
"""Who sends or reads at least so fast gets the time that takes: a modem's 64 kbit/s."""

_LINGER_S: Final = 2.0  # for a client that is refused while it sends, to read why
_ACK_S: Final = 0.1  # for a client's kernel to have all that was sent; most take no millisecond
_GOODBYE_S: Final = 0.5  # for a client's last words once everything has been sent


class Stage(Enum):
    """What a connection waits for."""

    REQUEST = "the first request"
    HEAD = "the rest of a request's headers"
    BODY = "the rest of a request's body"
    NEXT = "the next request"
    END = "the client's end, after its last response"
    GOODBYE = "the same, of a client that need not have noticed it"
    NOTHING = "nothing: a request is being answered"


_NEXT: Final = Stage.NEXT  # found faster than in its enumeration


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How many seconds a client may take.

    Attributes:
        header_s: From the first byte, or from connecting, to the end of the headers.
        body_s: From there to the end of the body, besides what `MIN_BYTES_PER_S` allows for it.
        idle_s: From one response to the next request.
        write_s: For reading something of an answer, at least at `MIN_BYTES_PER_S`.
    """

    header_s: float
    body_s: float
    idle_s: float
    write_s: float

    def due_at(self, stage: Stage, *, since: float, num_bytes: int) -> float:
        """When a client that has sent so many bytes of its body since then is too late."""
        match stage:
            case Stage.REQUEST | Stage.HEAD:
                return since + self.header_s
            case Stage.BODY:
                return since + self.body_s + num_bytes / MIN_BYTES_PER_S
            case Stage.NEXT:
                return since + self.idle_s
            case Stage.END:
                return since + _LINGER_S
            case Stage.GOODBYE:
                return since + _ACK_S
            case Stage.NOTHING:
                return math.inf


def _nobody_is_late(_: Stage) -> None:
    """What a watch that has stopped calls."""


class Watch:
    """The clock of one connection.

    Attributes:
        stage: What it waits for; set to `NOTHING` by whoever has got a whole request.
    """

    __slots__ = (
        *("stage", "_loop", "_patience", "_on_late", "_transport"),
        *("_since", "_num_bytes", "_timer", "_timer_at", "_unread_bytes", "_unread_since"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        patience: Patience,
        transport: asyncio.Transport,
        *,
        on_late: Callable[[Stage], None],
    ) -> None:
        """Watch a connection that has just been made.

        Args:
            loop: Has the clock.
            patience: How long everything may take.
            transport: The connection's; aborted when its client does not read.
            on_late: Called with what the client is late with.
        """
        # for the life of the connection
        self._loop = loop
        self._patience = patience
        self._transport = transport
        self._on_late = on_late
        # what it waits for
        self.stage = Stage.REQUEST
        self._since = loop.time()
        self._num_bytes = 0
        # what the client has not read yet
        self._unread_bytes = 0
        self._unread_since: float | None = None
        # the one timer, and when it looks
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._look_at(self._since + patience.header_s)

    def idle(self) -> None:
        """Every request is answered."""
        self.stage = _NEXT
        self._since = self._loop.time()
        due_at = self._since + self._patience.idle_s
        if due_at < self._timer_at:
            self._look_at(due_at)

    def arriving(self, stage: Stage, *, num_bytes: int = 0) -> None:
        """A part of a request has come.

        Args:
            stage: What is still to come, `HEAD` or `BODY`; if it is another than before, its time
                begins here.
            num_bytes: How much of the body is there.
        """
        self._num_bytes = num_bytes
        if stage is not self.stage:
            self.stage, self._since = stage, self._loop.time()
        self._look_at(self._due_at())

    def unread(self) -> None:
        """The client has yet to read much of what was sent."""
        self._unread_bytes = self._transport.get_write_buffer_size()
        self._unread_since = self._loop.time()
        self._look_at(self._unread_since + self._patience.write_s)

    def read(self) -> None:
        """It has."""
        self._unread_since = None

    def ending(self) -> None:
        """The connection is closed as soon as everything is sent; that may never be."""
        self.stage = Stage.NOTHING
        self.unread()
        self._look_at(self._loop.time() + _GOODBYE_S)

    def stop(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = math.inf
        self.stage = Stage.NOTHING
        self._on_late = _nobody_is_late  # else the connection would wait for the garbage collector

    def _due_at(self) -> float:
        return self._patience.due_at(self.stage, since=self._since, num_bytes=self._num_bytes)

    def _look_at(self, when: float) -> None:
        if when >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)
        self._timer_at = when

    def _look(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self._loop.time()
        if self._unread_since is not None and not self._is_read(self._unread_since, now):
            self._transport.abort()
            return
        if self._due_at() <= now:
            stage, self.stage = self.stage, Stage.NOTHING
            self._on_late(stage)
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        if self._transport.is_closing():
            self._look_at(now + _GOODBYE_S)
            return
        due_at = self._due_at()
        if self._unread_since is not None:
            due_at = min(due_at, self._unread_since + self._patience.write_s)
        if due_at < math.inf:
            self._look_at(due_at)

    def _is_read(self, since: float, now: float) -> bool:
        """Whether the client reads fast enough; a closed connection ends with the last byte."""
        size = self._transport.get_write_buffer_size()
        if self._transport.is_closing() and size == 0 and unsent_bytes(self._transport) == 0:
            return False  # over TLS: all that is missing is the client's goodbye
        if now < since + self._patience.write_s:
            return True
        taken = self._unread_bytes - size
        self._unread_bytes, self._unread_since = size, now
        return taken >= MIN_BYTES_PER_S * (now - since)
