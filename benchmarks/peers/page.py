"""From results to the page `docs/benchmarks-peers.md`; only its sentences are written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.figures import HERE
from benchmarks.peers.peer import Variant
from benchmarks.peers.results import is_sound, median, read, sound
from benchmarks.peers.targets import OURS, judge
from benchmarks.peers.work import WORKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.peers.results import Results, Timed
    from benchmarks.peers.work import Work

DOCS: Final = Path(__file__).resolve().parent.parent.parent / "docs"
PAGE: Final = DOCS / "benchmarks-peers.md"
IMAGES: Final = DOCS / "images"
RESULTS: Final = HERE

TITLE: Final = "# Beside other servers\n"

INTRODUCTION: Final = """\
`make bench-peers` measures all of this in half an hour and writes this page anew; `make bench-peers
ARGS=--quick` takes a few minutes and only prints. Every server has the same program, gets the same
request bytes, gives the same answers (compared before anything is timed), has one worker, and
computes at most {max_batch_size} requests at a time with {num_threads} thread{plural}. What it
makes of the program after loading it is part of what is compared.

Clients and servers share the machine. `wrk` asks from one thread; each measurement takes
{round_s:g} s after a warm-up, with ResNet-18 twice that, up to the last answer. All servers of a
work are started, then measured by turns in {num_rounds} rounds; the others are stopped meanwhile,
with SIGSTOP. Figures are medians over the rounds, lowest and highest in brackets. A round in which
a request failed, or none was answered, does not count, and is told; where they are half of all,
there is no figure.
"""

TUNING: Final = """\
*Default delay* is the same server with its own default for how long a batch may be held.
"""


def write(results: Results | None) -> None:
    """The page and its pictures."""
    PAGE.write_text(render(results), encoding="utf-8")
    if results is not None:
        from benchmarks.peers import plots  # noqa: PLC0415  # needs matplotlib; the page does not

        plots.write(results, IMAGES)


def last_results() -> Results | None:
    """What the page is made of: the newest run that was finished."""
    found = sorted(RESULTS.glob("peers-*.json"))
    return read(found[-1]) if found else None


def image_name(work: str) -> str:
    """The file of a work's picture."""
    return f"peers-{work.lower()}.svg"


def render(results: Results | None, *, with_plots: bool = True) -> str:
    """The whole page; without results it tells how to get some.

    Args:
        results: As far as they have come.
        with_plots: Whether pictures stand beside the tables.
    """
    if results is None:
        return f"{TITLE}\n`make bench-peers` writes this page in half an hour.\n"
    plural = "" if results.num_threads == 1 else "s"
    introduction = INTRODUCTION.format(
        max_batch_size=results.max_batch_size,
        num_threads=results.num_threads,
        plural=plural,
        round_s=results.round_s,
        num_rounds=results.num_rounds,
    )
    sections = [TITLE, introduction, _machine(results), _targets(results), _subjects(results)]
    timed = {each.work for each in results.timed}
    sections += [_work(w, results, with_plots=with_plots) for w in WORKS if w.name in timed]
    if results.starts or results.scalings:
        sections.append(_starts(results))
    return "\n".join(sections)


def _machine(results: Results) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"Measured on {results.measured_on}: {machine.num_cpus} cores of {machine.cpu}, "
        f"{machine.memory_gib:g} GiB, {machine.system}; {versions}.\n"
    )


def _targets(results: Results) -> str:
    verdicts = judge(results)
    rows = [
        (each.work, each.measure, each.wanted, each.found, str(each.outcome)) for each in verdicts
    ]
    heads = ("work", "measure", "target", "measured", "")
    return "\n".join(("## Targets", "", _table(heads, rows)))


def _subjects(results: Results) -> str:
    rows = [(x.title, x.version, results.settings_of(x)) for x in results.subjects]
    lines = ["## Servers", "", _table(("server", "version", "settings"), rows), TUNING]
    lines.extend(
        f"- {results.title_of(each.peer)} took no part in {each.work}: "
        + " ".join(each.reason.split())
        for each in results.absences
    )
    return "\n".join(lines) + ("\n" if results.absences else "")


def _work(work: Work, results: Results, *, with_plots: bool) -> str:
    picture = f"![requests per second](images/{image_name(work.name)})\n"
    parts = [f"## {work.name}: {work.title}", "", *([picture] if with_plots else [])]
    parts.append(_loads(work.name, results))
    bare = _bare(work.name, results)
    return "\n".join([*parts, bare] if bare else parts)


def _loads(work: str, results: Results) -> str:
    rows: list[tuple[str, ...]] = []
    for connections, peer, variant in entries(work, results):
        measured = [
            each
            for each in results.timed
            if (each.work, each.peer, each.variant) == (work, peer, variant)
            and each.load.connections == connections
        ]
        rows.append((str(connections), _label(peer, variant, results), *_row(measured, results)))
    heads = ("clients", "server", "requests/s", "p50 ms", "p99 ms", "CPU µs", "Flambeau is")
    return _table(heads, rows)


def entries(work: str, results: Results) -> list[tuple[int, str, Variant]]:
    """What was measured at a work: by clients, then servers in the order of the roster."""
    order = [each.name for each in results.subjects]
    found = {
        (each.load.connections, each.peer, each.variant)
        for each in results.timed
        if each.work == work
    }
    return sorted(
        found, key=lambda each: (each[0], order.index(each[1]), list(Variant).index(each[2]))
    )


def _row(measured: Sequence[Timed], results: Results) -> tuple[str, ...]:
    first = measured[0]
    num_failed = sum(not is_sound(each) for each in measured)
    failed = f"{num_failed} of {len(measured)} rounds failed"
    measured = sound(measured)
    if not measured:
        return (failed, "", "", "", "")
    rates = [each.load.requests_per_s for each in measured]
    rate = median(rates)
    remark = f"; {failed}" if num_failed else ""
    ours = results.median_rate(first.work, OURS, first.load.connections)
    is_ours = first.peer == OURS and first.variant is Variant.TUNED
    ratio = "" if is_ours or not ours or not rate else f"{ours / rate:.2f} x"
    return (
        f"{_number(rate)} ({_number(min(rates))} to {_number(max(rates))}){remark}",
        f"{median(each.load.p50_ms for each in measured):.2f}",
        f"{median(each.load.p99_ms for each in measured):.2f}",
        f"{median(each.cpu_us for each in measured):,.0f}",
        ratio,
    )


def _bare(work: str, results: Results) -> str:
    sizes = sorted({each.bare.batch_size for each in results.bare if each.work == work})
    rows: list[tuple[str, ...]] = []
    for size in sizes:
        found = results.bares(work, size)
        rates = [bare.samples_per_s for bare in found]
        form = next(e.form for e in results.bare if (e.work, e.bare.batch_size) == (work, size))
        rows.append(
            (
                str(size),
                form,
                f"{_number(median(rates))} ({_number(min(rates))} to {_number(max(rates))})",
                f"{median(bare.p50_ms for bare in found):.3f}",
            )
        )
    heads = ("bare program: batch", "fastest form", "samples/s", "p50 ms per call")
    return _table(heads, rows) if rows else ""


def _starts(results: Results) -> str:
    rows: list[tuple[str, ...]] = []
    asked = dict.fromkeys((each.work, each.peer) for each in results.starts)
    asked |= dict.fromkeys((each.work, each.peer) for each in results.scalings)
    for work, peer in asked:
        seconds = results.median_start_s(work, peer)
        scaling = results.median_scaling_s(work, peer)
        pss = results.pss_per_worker_bytes(work, peer)
        rows.append(
            (
                work,
                results.title_of(peer),
                "" if seconds is None else f"{seconds:.2f}",
                "" if scaling is None else f"{scaling:.2f}",
                "" if pss is None else f"{pss / 2**20:.0f}",
            )
        )
    how = (
        "From the command to the first right answer, median over the rounds; then workers are\n"
        "added one by one. Memory is that of all processes but the first, shared pages in\n"
        "proportion (PSS), after every worker has answered and rested for some seconds.\n"
    )
    heads = ("work", "server", "first answer s", "further worker s", "MiB per further worker")
    return "\n".join(("## Start and further workers", "", how, _table(heads, rows)))


def _label(peer: str, variant: Variant, results: Results) -> str:
    title = results.title_of(peer)
    return title if variant is Variant.TUNED else f"{title}, {variant}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
