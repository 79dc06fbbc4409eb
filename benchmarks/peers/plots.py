"""A picture per work: requests per second of every server, lowest and highest as a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.peers.page import entries, image_name
from benchmarks.peers.peer import Variant
from benchmarks.peers.results import median
from benchmarks.peers.targets import OURS

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers.results import Results

OURS_COLOR: Final = "#c8511b"
THEIRS_COLOR: Final = "#8c9aa8"


def write(results: Results, directory: Path) -> None:
    """Write `peers-w1.svg` and so on."""
    directory.mkdir(parents=True, exist_ok=True)
    for work in dict.fromkeys(each.work for each in results.timed):
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": work}):  # small, repeatable
            path = directory / image_name(work)
            _figure(work, results).savefig(path, metadata={"Date": None})


def _figure(work: str, results: Results) -> Figure:
    bars = [each for each in entries(work, results) if each[2] is Variant.TUNED]
    counts = sorted({connections for connections, _, _ in bars})
    height = max(sum(bar[0] == count for bar in bars) for count in counts)
    figure = Figure(figsize=(3.4 * len(counts) + 1, 0.34 * height + 0.9), layout="constrained")
    for place, count in enumerate(counts):
        axes = figure.add_subplot(1, len(counts), place + 1)
        names: list[str] = []
        for row, peer in enumerate(peer for each, peer, _ in bars if each == count):
            rates = [load.requests_per_s for load in results.loads(work, peer, count)]
            middle = median(rates) or 0.0
            axes.barh(row, middle, color=OURS_COLOR if peer == OURS else THEIRS_COLOR)
            if rates:
                axes.plot([min(rates), max(rates)], [row, row], color="black", linewidth=1)
            text = f" {middle:,.0f}" if middle >= 100 else f" {middle:.1f}"
            axes.text(max([middle, *rates]), row, text, va="center", fontsize=8)
            names.append(results.title_of(peer))
        axes.set_yticks(range(len(names)), names if place == 0 else [""] * len(names))
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_title(f"{count} client{'s' if count > 1 else ''}", fontsize=9)
        axes.set_xlabel("requests/s", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
