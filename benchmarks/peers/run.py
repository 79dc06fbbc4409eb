"""Measure Flambeau beside its peers, and write `docs/benchmarks-peers.md`.

    python -m benchmarks.peers.run                              # half an hour
    python -m benchmarks.peers.run --quick                      # minutes; prints, writes no page
    python -m benchmarks.peers.run --only torchserve,mosec --work W1,W3 --rounds 7
    python -m benchmarks.peers.run --resume                     # goes on where it was interrupted
    python -m benchmarks.peers.run --page                       # only writes the page anew

What was measured is saved after every turn in `.bench-peers/`, so a run that is interrupted loses
nothing; when it is done, it is put into `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from benchmarks import load, machine
from benchmarks.peers import bouts, page, starts
from benchmarks.peers.environment import CACHE, EnvironmentMissingError
from benchmarks.peers.peer import MAX_BATCH_SIZE, NUM_THREADS, Variant
from benchmarks.peers.plan import STARTED_WORKS, Plan
from benchmarks.peers.results import Absence, Results, Subject, read, save
from benchmarks.peers.roster import PEERS
from benchmarks.peers.targets import OURS
from benchmarks.peers.work import WORKS
from flambeau.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

QUICK: Final = Plan(num_rounds=1, round_s=1, works=("W1", "W3", "W5"), starts=False)
QUICK_RESULTS: Final = CACHE / "quick.json"
UNFINISHED: Final = CACHE / "unfinished.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when there is no load generator."""
    args = _parser().parse_args(arguments)
    if args.page:
        page.write(page.last_results())
        return 0
    try:
        load.find_wrk()
    except load.LoadGeneratorMissingError as error:
        print(error, file=sys.stderr)
        return 1
    plan = plan_of(args)
    path = QUICK_RESULTS if args.quick else UNFINISHED
    results = _empty(plan)
    if args.resume:
        if not path.is_file():
            raise SystemExit(f"there is no {path} to go on with; run without --resume")
        results = read(path)
        results.num_rounds = plan.num_rounds
    signal.signal(signal.SIGTERM, _leave)  # else servers would outlive it
    measure(plan, results, path=path)
    print(page.render(results, with_plots=False))
    if not args.quick:
        save(results, page.RESULTS / f"peers-{_now():%Y%m%dT%H%M%SZ}.json")
        page.write(results)
    return 0


def plan_of(args: argparse.Namespace) -> Plan:
    """What the command line asks for.

    Raises:
        SystemExit: A name is not known.
    """
    base = QUICK if args.quick else Plan()
    peers = _chosen(args.only, tuple(PEERS), what="peers") or base.peers
    return Plan(
        num_rounds=args.rounds or base.num_rounds,
        round_s=args.seconds or base.round_s,
        works=_chosen(args.work, tuple(work.name for work in WORKS), what="works") or base.works,
        peers=tuple(name for name in PEERS if name in {OURS, *peers}),
        starts=base.starts and not args.no_starts,
    )


def measure(plan: Plan, results: Results, *, path: Path) -> None:
    """Add all that is missing, saving as it goes."""
    torch.set_num_threads(1)  # only answers to compare with are computed here
    _add_subjects(plan, results)
    able = {each.name for each in results.subjects}
    plan = Plan(
        num_rounds=plan.num_rounds,
        round_s=plan.round_s,
        works=plan.works,
        peers=tuple(name for name in plan.peers if name in able),
        starts=plan.starts,
    )
    for bout in plan.bouts():
        with tempfile.TemporaryDirectory(prefix="peers-") as name:
            prepared = bout.work.prepare(Path(name))
            bouts.measure(bout, prepared, plan, results, save=lambda: save(results, path))
            if plan.starts and bout.work.name in STARTED_WORKS:
                starts.measure(prepared, plan, results, save=lambda: save(results, path))
    save(results, path)


def _add_subjects(plan: Plan, results: Results) -> None:
    """Install what is not installed, and note the versions."""
    for name in plan.peers:
        peer = PEERS[name]
        results.subjects = [each for each in results.subjects if each.name != name]
        results.forget_absence("all", name, Variant.TUNED)
        try:
            print(f"... {peer.title}: looking for its environment", file=sys.stderr, flush=True)
            version = peer.version(peer.interpreter())
        except (EnvironmentMissingError, ConfigError, subprocess.CalledProcessError) as error:
            print(f"... {peer.title} takes no part: {error}", file=sys.stderr)
            results.add_absence(
                Absence(work="all", peer=name, variant=Variant.TUNED, reason=str(error))
            )
            continue
        results.subjects.append(
            Subject(name=name, title=peer.title, version=version, settings=peer.settings)
        )


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    sys.exit(1)


def _empty(plan: Plan) -> Results:
    return Results(
        measured_on=_now().date().isoformat(),
        machine=machine.describe(),
        num_rounds=plan.num_rounds,
        round_s=plan.round_s,
        num_threads=NUM_THREADS,
        max_batch_size=MAX_BATCH_SIZE,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round of W1, W3 and W5, a second each"
    )
    parser.add_argument("--only", metavar="PEER,...", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--work", metavar="WORK,...", help="of W1 to W5")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often all is measured")
    parser.add_argument("--seconds", type=int, metavar="N", help="of each measurement")
    parser.add_argument("--no-starts", action="store_true", help="measure no starts")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    return parser


def _chosen(text: str | None, known: tuple[str, ...], *, what: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"there are no {what} {', '.join(unknown)}; use {', '.join(known)}")
    return names


def _now() -> dt.datetime:
    return dt.datetime.now(tz=dt.timezone.utc)


if __name__ == "__main__":
    sys.exit(main())
