"""From results to the page `docs/benchmarks.md`; only its sentences are written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import report_budget, report_growth, report_start, targets
from benchmarks.figures import Load, median_bare, median_load
from benchmarks.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Machine, Results, Swaps, Training
    from benchmarks.targets import Target

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks

`make bench` measures all of this in a few minutes and writes this page anew; `make bench
ARGS=--quick` takes a minute and only prints. The figures are from one machine, with client and
server on the same cores: read the ratios, not the absolute numbers, and measure on yours.
[Beside other servers](benchmarks-peers.md) has the same work done by others.
"""

HOW_TARGETS = """\
What the figures below are held against.
"""

HOW_LOAD = """\
The trained LeNet-5 answers requests of one sample each, sent as raw float32 by `wrk` from one
thread, to one worker with batches of at most {batch_size}. *Bare* is the same TorchScript program
called in a loop by one thread, without server, requests or answers. A round measures everything
once for {round_s:g} s; the figures are medians over {num_rounds} rounds, lowest and highest in
brackets.
"""

HOW_SWAP = """\
{connections} clients ask one after the other, all the time, while `deploy` replaces the default
version {num_swaps} times. Each version answers with its own number. An answer is *wrong* when its
version could not have been the default at any moment between sending and receiving.
"""


def render(results: Results | None) -> str:
    """The whole page; without results it tells how to get some."""
    if results is None:
        return INTRODUCTION + "\nNothing is quoted for this revision yet.\n"
    sections = [
        INTRODUCTION,
        _machine(results.machine, results.measured_on),
        *_targets(targets.of(results)),
        _training(results.training),
        _load(results),
    ]
    if results.budgets:
        sections.append(report_budget.render(results.budgets))
    sections.append(_swaps(results.swaps))
    if results.half_load is not None:
        sections.append(report_growth.render_swaps(results.half_load))
    if results.start is not None:
        sections.append(report_start.render(results.start))
    if results.growth is not None:
        sections.append(report_growth.render(results.growth))
    return "\n".join(sections)


def _targets(found: Sequence[Target]) -> list[str]:
    rows = [
        (target.what, target.limit, target.found, "reached" if target.is_reached else "**missed**")
        for target in found
    ]
    if not rows:
        return []
    lines = table(("what", "target", "found", ""), rows)
    return ["\n".join(("## Targets", "", HOW_TARGETS, lines))]


def _machine(machine: Machine, measured_on: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"Measured on {measured_on}: {machine.num_cpus} cores of {machine.cpu}, "
        f"{machine.memory_gib:g} GiB, {machine.system}; {versions}.\n"
    )


def _training(training: Training) -> str:
    loss, repeated = (float.fromhex(x) for x in (training.final_loss, training.repeated_loss))
    same = "equal in every bit" if training.identical else "DIFFERENT"
    rows = [
        ("validation accuracy, last epoch", f"{training.val_accuracy:.4f}"),
        ("validation accuracy, best epoch", f"{training.best_val_accuracy:.4f}"),
        ("training loss, last epoch, first run", repr(loss)),
        ("training loss, last epoch, second run", repr(repeated)),
        ("losses and accuracies of all epochs", same),
        ("wall clock of each run", " and ".join(f"{s:g} s" for s in training.durations_s)),
    ]
    text = f"`{training.config}`, {training.num_epochs} epochs, twice with one seed.\n"
    return "\n".join(("## Training", "", text, table(("", ""), rows)))


def _load(results: Results) -> str:
    rounds = results.rounds
    sizes = [bare.batch_size for bare in rounds[0].bare]
    bares = {size: median_bare(rounds, size) for size in sizes}
    bare_rows = [
        (
            f"{size}",
            f"{bare.samples_per_s:,.0f}",
            f"{bare.p50_ms:.3f}",
            f"{bare.p99_ms:.3f}",
        )
        for size, bare in bares.items()
    ]
    load_rows: list[tuple[str, ...]] = []
    for connections in [load.connections for load in rounds[0].loads]:
        load = median_load(rounds, connections)
        load_rows.append(
            (
                f"{connections}",
                f"{load.requests_per_s:,.0f} {_range(results, connections)}",
                f"{load.p50_ms:.2f}",
                f"{load.p99_ms:.2f}",
                f"{load.num_errors} of {load.num_requests:,}",
                *(f"{load.requests_per_s / bares[size].samples_per_s:.2f}" for size in sizes),
            )
        )
    heads = ("connections", "requests/s", "p50 ms", "p99 ms", "errors")
    ratios = tuple(f"of bare, batch {size}" for size in sizes)
    how = HOW_LOAD.format(
        batch_size=results.batch_size, round_s=results.round_s, num_rounds=len(rounds)
    )
    return "\n".join(
        (
            *("## Serving against the bare model", "", how),
            table(("bare: batch", "samples/s", "p50 ms per call", "p99 ms per call"), bare_rows),
            table((*heads, *ratios), load_rows),
        )
    )


def _range(results: Results, connections: int) -> str:
    loads: list[Load] = [load for one in results.rounds for load in one.loads]
    rates = [load.requests_per_s for load in loads if load.connections == connections]
    return f"({min(rates):,.0f} to {max(rates):,.0f})"


def _swaps(swaps: Swaps) -> str:
    rows = [
        ("requests sent", f"{swaps.num_requests:,}"),
        ("failed", f"{swaps.num_failed}"),
        ("answered by a wrong version", f"{swaps.num_wrong}"),
        (
            "answers per version",
            ", ".join(f"{version}: {count:,}" for version, count in swaps.versions_seen.items()),
        ),
        (
            "time of a request: median, 99th percentile, slowest",
            f"{swaps.p50_ms:.1f} ms, {swaps.p99_ms:.1f} ms, {swaps.max_ms:.0f} ms",
        ),
        ("wall clock", f"{swaps.duration_s:.1f} s"),
    ]
    how = HOW_SWAP.format(connections=swaps.connections, num_swaps=swaps.num_swaps)
    return "\n".join(("## Hot swaps under load", "", how, table(("", ""), rows)))
