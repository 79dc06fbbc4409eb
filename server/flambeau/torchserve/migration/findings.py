"""What a check found: one statement about one thing, with a way out where one is needed."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Standing(enum.Enum):
    """How something fares."""

    WORKS = "works"
    DIFFERS = "works differently"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One statement.

    Attributes:
        subject: The archive or the configuration file.
        topic: What in it, e.g. `handler` or a key.
        standing: How it fares.
        reason: Why; may be empty where it works.
        fix: What to do; empty where nothing is needed.
    """

    subject: str
    topic: str
    standing: Standing
    reason: str = ""
    fix: str = ""


def report(findings: Sequence[Finding]) -> str:
    """All findings by subject, then their number by standing."""
    width = max(len(standing.value) for standing in Standing)
    lines: list[str] = []
    for subject in dict.fromkeys(finding.subject for finding in findings):
        lines.append(subject)
        for finding in (each for each in findings if each.subject == subject):
            reason = f": {finding.reason}" if finding.reason else ""
            lines.append(f"  {finding.standing.value:<{width}}  {finding.topic}{reason}")
            if finding.fix:
                lines.append(f"  {'':<{width}}  -> {finding.fix}")
    counts = [
        f"{sum(each.standing is standing for each in findings)} {standing.value}"
        for standing in Standing
    ]
    return "\n".join([*lines, ", ".join(counts)])
