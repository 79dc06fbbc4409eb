"""Record from the original TorchServe, and compare our server with it.

    python -m tests.conformance.record [--only NAME ...] [--no-compare | --from-recordings]

Starts the original once per scenario, writes tests/conformance/recordings, then sends the same
requests to our server and prints what was found. Exit code 1 when a difference is unexpected.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flambeau.torchserve.compare import Outcome, Verdict, judge
from flambeau.torchserve.exchange import Exchange, read_exchanges, write_exchanges
from flambeau.torchserve.masking import masked
from tests.conformance.known_differences import KNOWN_DIFFERENCES
from tests.conformance.scenario import OURS, THEIRS, Recordable, Side
from tests.conformance.scenarios import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scenarios; all without it")
    parser.add_argument("--no-compare", action="store_true", help="only record")
    parser.add_argument(
        "--from-recordings", action="store_true", help="compare with what was recorded before"
    )
    args = parser.parse_args()
    verdicts: list[Verdict] = []
    for scenario in [each for each in SCENARIOS if not args.only or each.name in args.only]:
        if args.from_recordings:
            theirs = read_exchanges(scenario.recorded)
        else:
            theirs = run(scenario, THEIRS)
            write_exchanges(scenario.recorded, theirs)
        print(f"{scenario.name}: {len(theirs)} exchanges", flush=True)
        if not args.no_compare:
            verdicts += verdicts_of(scenario, theirs, run(scenario, OURS))
    report(verdicts)
    return int(any(verdict.outcome is Outcome.UNEXPECTED for verdict in verdicts))


def run(scenario: Recordable, side: Side) -> list[Exchange]:
    """A scenario's exchanges with a server, what varies masked."""
    with tempfile.TemporaryDirectory(prefix="store-") as directory:
        exchanges, values = scenario.run(side, Path(directory))
    return [
        replace(each, answer=masked(each.request, each.answer, values=values)) for each in exchanges
    ]


def verdicts_of(
    scenario: Recordable, theirs: Sequence[Exchange], ours: Sequence[Exchange]
) -> list[Verdict]:
    """One verdict per exchange of a scenario."""
    return [
        judge(
            one.request, one.answer, other.answer, scenario=scenario.name, known=KNOWN_DIFFERENCES
        )
        for one, other in zip(theirs, ours, strict=True)
    ]


def report(verdicts: Sequence[Verdict]) -> None:
    """Print each difference and the totals."""
    for verdict in verdicts:
        if verdict.outcome is Outcome.UNEXPECTED:
            print(f"unexpected: {verdict.where}")
            for difference in verdict.differences:
                print(f"    {difference}")
    counts = Counter(verdict.outcome for verdict in verdicts)
    known = Counter(each.id for verdict in verdicts for each in verdict.known)
    for name, count in sorted(known.items()):
        print(f"known difference {name}: {count}")
    print(
        f"{len(verdicts)} pairs compared: {counts[Outcome.EQUAL]} equal, "
        f"{counts[Outcome.KNOWN]} known differences, {counts[Outcome.UNEXPECTED]} unexpected"
    )


if __name__ == "__main__":
    sys.exit(main())
