"""How soon a server answers, and what one more worker costs, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Start:
    """ResNet-18; medians of the rounds.

    Attributes:
        first_answer_s: From the command to the first answer.
        extra_worker_s: From asking for one more worker until it is ready.
        extra_worker_mb: What it adds to the memory of all processes together, each page that
            several share counted once (PSS), after some requests.
        whole_mb: All processes with one worker, counted alike.
    """

    first_answer_s: float
    extra_worker_s: float
    extra_worker_mb: float
    whole_mb: float
