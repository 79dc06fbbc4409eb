"""The part of the page that tells where a request's time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.stages import Stage
from benchmarks.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures_budget import Budget

HOW = """\
Microseconds per request: LeNet, 3 KB of raw float32, one worker, batches of at most 16. With one
connection the whole is the client's wait. With more it is the time of all cores: 1 s x cores
divided by the requests answered in it. CPU time is the kernel's count; its split into stages is
sampled from stacks, so a stage's figure is as sure as its share of {num_samples:,} samples.
"""


REST = "waking up, other processes, stolen by the hypervisor"


def render(budgets: Sequence[Budget]) -> str:
    """The section; `budgets` has at least one."""
    present = {(part.process, part.stage) for budget in budgets for part in budget.parts}
    rows: list[tuple[str, ...]] = []
    for process in ("front", "worker"):
        for stage in Stage:
            if (process, stage) in present:
                times = [budget.us_of(process, stage) for budget in budgets]
                rows.append((process, stage.value, *map(_us, times)))
        sums = [sum(p.us for p in budget.parts if p.process == process) for budget in budgets]
        rows.append((f"**{process}**", "**sum**", *(f"**{_us(us)}**" for us in sums)))
    rows.append(("load generator", "", *(_us(budget.client_us) for budget in budgets)))
    rows.append(("", "idle cores", *(_us(budget.idle_us) for budget in budgets)))
    rows.append(("", REST, *(_us(budget.rest_us) for budget in budgets)))
    rows.append(("**whole**", "", *(f"**{_us(budget.whole_us)}**" for budget in budgets)))
    rows.append(("", "requests/s", *(f"{budget.requests_per_s:,.0f}" for budget in budgets)))
    heads = ("process", "stage", *(_head(budget) for budget in budgets))
    num_samples = sum(n for budget in budgets for n in budget.num_samples.values())
    how = HOW.format(num_samples=num_samples)
    return "\n".join(("## Where the time of a request goes", "", how, table(heads, rows)))


def _head(budget: Budget) -> str:
    if budget.num_cores == 1:
        return f"{budget.connections} connection, us"
    return f"{budget.connections} connections, us of {budget.num_cores} cores"


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
