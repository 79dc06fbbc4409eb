"""The part of the page on starting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.tables import table

if TYPE_CHECKING:
    from benchmarks.figures_start import Start

HOW = """\
ResNet-18. Memory is that of all processes together, where each page that several of them share
counts once.
"""


def render(start: Start) -> str:
    """The section."""
    rows = [
        ("from the command to the first answer", f"{start.first_answer_s:.2f} s"),
        ("until one more worker is ready", f"{start.extra_worker_s:.2f} s"),
        ("memory with one worker", f"{start.whole_mb:,.0f} MB"),
        ("memory of one more worker", f"{start.extra_worker_mb:,.0f} MB"),
    ]
    return "\n".join(("## Starting", "", HOW, table(("", ""), rows)))
