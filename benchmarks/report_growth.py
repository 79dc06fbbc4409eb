"""The parts of the page on growth and on the cost of swaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures_growth import Growth, Latency, Point, SwapCost

HOW = """\
Requests come at a fixed rate, a quarter of what the server answered over one connection, and a
request's time counts from when it was due. Within a table everything else stays equal.
"""

HOW_CONNECTIONS = """\
LeNet on one worker. *Idle* are connections beside the 8 that are used.
"""

HOW_BODIES = """\
A model that answers with the length of its body; {rate:g} requests/s over one connection.
"""

HOW_MODELS = """\
One model is asked; the others are registered and have no workers.
"""

HOW_WORKERS = """\
LeNet at 64 connections. More workers than cores can only wait for one another.
"""

HOW_SWAP = """\
A tiny model is asked {rate:,.0f} times per second, half of what its one worker can answer, over 16
connections. Windows in which versions are replaced alternate with windows in which none is.
"""


def render(growth: Growth) -> str:
    """The section."""
    connections = [
        (
            f"{point.size:,}",
            _rate(point),
            *_times(point.latency),
            *(_times(point.with_idle) if point.with_idle else ("", "")),
        )
        for point in growth.connections
    ]
    idle = ("p50 ms, so many idle", "p99 ms, so many idle")
    bodies = [
        (
            _bytes(point.size),
            *_times(point.latency),
            f"{point.size / point.latency.p50_ms / 1000:,.1f}",
        )
        for point in growth.bodies
    ]
    how_bodies = HOW_BODIES.format(rate=growth.bodies[0].latency.rate)
    late_ms = max(
        latency.late_p99_ms
        for points in (growth.connections, growth.models, growth.workers)
        for latency in (point.latency for point in points)
    )
    return "\n".join(
        (
            *("## Growth", "", HOW),
            f"The client itself was late by at most {late_ms:.2f} ms in 99 of 100 requests.\n",
            *("### Connections", "", HOW_CONNECTIONS),
            table(("connections", "requests/s", "p50 ms", "p99 ms", *idle), connections),
            *("### Bodies", "", how_bodies),
            table(("bytes", "p50 ms", "p99 ms", "MB/s at p50"), bodies),
            *("### Models", "", HOW_MODELS),
            _plain("models", growth.models),
            *("### Workers", "", HOW_WORKERS),
            _plain("workers", growth.workers),
        )
    )


def render_swaps(cost: SwapCost) -> str:
    """The section."""
    rows = [
        (
            name,
            f"{found.num_requests:,}",
            f"{found.num_errors}",
            *_times(found),
            f"{found.max_ms:.1f}",
        )
        for name, found in (("without swaps", cost.quiet), ("with swaps", cost.swapping))
    ]
    how = HOW_SWAP.format(rate=cost.quiet.rate)
    heads = ("", "requests", "failed", "p50 ms", "p99 ms", "slowest ms")
    said = (
        f"{cost.num_swaps} swaps, each {cost.mean_swap_s:.2f} s long on average; "
        f"{cost.num_wrong} answers by a wrong version.\n"
    )
    return "\n".join(("## Hot swaps at half load", "", how, table(heads, rows), said))


def _plain(what: str, points: Sequence[Point]) -> str:
    rows = [(f"{point.size}", _rate(point), *_times(point.latency)) for point in points]
    return table((what, "requests/s", "p50 ms", "p99 ms"), rows)


def _times(latency: Latency) -> tuple[str, str]:
    return f"{latency.p50_ms:.2f}", f"{latency.p99_ms:.2f}"


def _rate(point: Point) -> str:
    return "" if point.requests_per_s is None else f"{point.requests_per_s:,.0f}"


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
