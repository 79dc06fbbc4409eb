"""One configuration, measured: served, and under load until its highest rate is known."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from flambeau.client import ServerRefused
from flambeau.tuning.frontier import Point
from flambeau.tuning.rate_search import RateSearch

if TYPE_CHECKING:
    from collections.abc import Callable

    from flambeau.tuning.candidate import Candidate
    from flambeau.tuning.clients import Clients
    from flambeau.tuning.own_server import OwnServer
    from flambeau.tuning.slo import Slo
    from flambeau.tuning.variants import Variants
    from flambeau.tuning.window import Window

_FIRST_SHARE: Final = 0.8  # of what a server can answer at all; above, latencies rise steeply
_AGAIN_SHARE: Final = 1.3  # how much more than the first time a second search may find
_MIN_REQUESTS: Final = 100  # in a window, where a longer one can have them
_MAX_LONGER: Final = 4  # times the usual length
_MIN_CONNECTIONS: Final = 16
_MAX_CONNECTIONS: Final = 512
_PRECISION: Final = 0.08
_FINE_PRECISION: Final = 0.04
_FINE_TRIES: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What was found about one configuration.

    Attributes:
        candidate: The configuration.
        requests_per_s: The highest rate that met the objective; 0 if none did.
        latency_s: The objective's highest percentile at that rate; infinite if none met it.
        points: Every load it was measured under whose requests were all answered.
        memory_bytes: What its workers took.
        failure: Why it could not be measured; empty if it could.
        is_pruned: Given up early, as it cannot be the best.
    """

    candidate: Candidate
    requests_per_s: float = 0.0
    latency_s: float = float("inf")
    points: tuple[Point, ...] = ()
    memory_bytes: int = 0
    failure: str = ""
    is_pruned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Where configurations are measured.

    Attributes:
        model: The name that it is served under.
        slo: The objective.
        variants: Makes archives of configurations.
        server: Serves them, one at a time.
        clients: Make the load.
        window_s: How long one measurement usually takes.
        stop_at: When to begin no further one, on `clock`.
        clock: Seconds.
    """

    model: str
    slo: Slo
    variants: Variants
    server: OwnServer
    clients: Clients
    window_s: float
    stop_at: float
    clock: Callable[[], float] = field(default=time.monotonic)

    def measure(self, candidate: Candidate, *, give_up_below: float) -> Trial:
        """Find the highest rate at which a configuration meets the objective.

        Args:
            candidate: The configuration.
            give_up_below: Stop as soon as its rate is known to be less.
        """
        return self._served(candidate, lambda: self._search(candidate, give_up_below))

    def measure_again(self, found: Trial) -> Trial:
        """Search around the rate that was found before, more finely."""
        search = RateSearch(
            first=found.requests_per_s,
            ceiling=found.requests_per_s * _AGAIN_SHARE,
            precision=_FINE_PRECISION,
            max_tries=_FINE_TRIES,
        )
        return self._served(found.candidate, lambda: self._follow(found.candidate, search, []))

    def _served(self, candidate: Candidate, work: Callable[[], Trial]) -> Trial:
        variant = self.variants.make(self.variants.yaml_of(candidate))
        try:
            self.server.register(variant.name, model=self.model)
            trial = work()
        except ServerRefused as error:
            trial = Trial(candidate=candidate, failure=str(error))
        # not when Ctrl-C ends this: then the server ends, and need not drain before
        self.server.unregister(self.model)
        self.variants.remove(variant)
        return trial

    def _search(self, candidate: Candidate, give_up_below: float) -> Trial:
        full = self._full_load(candidate, self.window_s)
        if not full.latencies_s:  # it may be slower than a window is long
            full = self._full_load(candidate, _MAX_LONGER * self.window_s)
        if not full.latencies_s:
            why = full.first_failure or "no request was answered in time"
            return Trial(candidate=candidate, failure=why)
        search = RateSearch(
            first=full.requests_per_s * _FIRST_SHARE,
            ceiling=full.requests_per_s,
            precision=_PRECISION,
            give_up_below=give_up_below,
        )
        return self._follow(candidate, search, self._points(candidate, full))

    def _full_load(self, candidate: Candidate, seconds: float) -> Window:
        """All workers busy with full batches, and as many requests waiting."""
        connections = max(2 * candidate.workers * candidate.batch_size, _MIN_CONNECTIONS // 2)
        return self.clients.run_closed(
            connections=min(connections, _MAX_CONNECTIONS), seconds=seconds
        )

    def _follow(self, candidate: Candidate, search: RateSearch, points: list[Point]) -> Trial:
        latency_s = float("inf")
        while (rate := search.next_rate()) is not None and self.clock() < self.stop_at:
            window = self.clients.run_open(
                rate=rate,
                seconds=self._seconds_at(rate),
                slo=self.slo,
                connections=self._connections_at(rate),
            )
            is_met = window.meets(self.slo)
            search.record(rate, is_met=is_met)
            points += self._points(candidate, window)
            if is_met:
                latency_s = window.percentile_s(self.slo.highest.percentile)
        return Trial(
            candidate=candidate,
            requests_per_s=search.met,
            latency_s=latency_s,
            points=tuple(points),
            memory_bytes=self.server.memory_bytes(self.model),
            is_pruned=search.is_hopeless,
        )

    def _points(self, candidate: Candidate, window: Window) -> list[Point]:
        latency_s = window.percentile_s(self.slo.highest.percentile)
        if window.is_cut_short or window.num_failed or latency_s == float("inf"):
            return []
        rate = window.requests_per_s
        return [Point(candidate=candidate, requests_per_s=rate, latency_s=latency_s)]

    def _seconds_at(self, rate: float) -> float:
        """Longer at low rates, where a percentile of few requests says little."""
        return min(max(self.window_s, _MIN_REQUESTS / rate), _MAX_LONGER * self.window_s)

    def _connections_at(self, rate: float) -> int:
        """Twice as many as are busy on average when requests take as long as they may."""
        wanted = round(2 * rate * self.slo.longest_s)
        return min(max(wanted, _MIN_CONNECTIONS), _MAX_CONNECTIONS)
