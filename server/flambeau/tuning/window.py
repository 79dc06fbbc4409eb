"""What one stretch of load showed: how fast requests were answered, and how many were not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flambeau.tuning.slo import Slo


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One measurement.

    Attributes:
        seconds: How long it was, warm-up apart.
        latencies_s: Of every request that was answered with 200, sorted; from the moment it was due
            to be sent, whether or not a connection was free then.
        num_failed: Requests that were answered otherwise, or not by the end.
        first_failure: What the first of these was told; empty without any.
        is_cut_short: It ended early, because too many requests were too slow already.
    """

    seconds: float
    latencies_s: Sequence[float]
    num_failed: int = 0
    first_failure: str = ""
    is_cut_short: bool = False

    @property
    def requests_per_s(self) -> float:
        """Requests answered with 200."""
        return len(self.latencies_s) / self.seconds if self.seconds > 0 else 0.0

    def percentile_s(self, percentile: int) -> float:
        """The nearest-rank percentile of all requests; infinite where that one failed.

        With few requests it is their largest latency, so few requests are judged strictly.
        """
        num_requests = len(self.latencies_s) + self.num_failed
        rank = -(-num_requests * percentile // 100)  # 1 for the fastest
        if not 1 <= rank <= len(self.latencies_s):
            return float("inf")
        return self.latencies_s[rank - 1]

    def meets(self, slo: Slo) -> bool:
        """Whether no request failed and every target holds; False when there were none at all."""
        if self.is_cut_short or self.num_failed or not self.latencies_s:
            return False
        return all(self.percentile_s(each.percentile) <= each.limit_s for each in slo.targets)


def merged(windows: Iterable[Window]) -> Window:
    """What several clients saw at the same time, at least one of them."""
    together = list(windows)
    return Window(
        seconds=max(window.seconds for window in together),
        latencies_s=sorted(latency for window in together for latency in window.latencies_s),
        num_failed=sum(window.num_failed for window in together),
        first_failure=next((w.first_failure for w in together if w.first_failure), ""),
        is_cut_short=any(window.is_cut_short for window in together),
    )
