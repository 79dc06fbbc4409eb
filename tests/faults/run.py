"""`make faults` and `make soak`: all cases in their whole size, judged and written down.

Cases share a server as long as all is well; after one that finds something, the next have another.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine
from tests.faults import page
from tests.faults.case import Case, run
from tests.faults.cases import beginning_with, named
from tests.faults.collected import NODES, collect
from tests.faults.verdict import Verdict
from tests.integration.server import Server, running_server


class Servers:
    """The server that cases share, and a new one when it is wanted; a context manager."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._stack = ExitStack()
        self._server: Server | None = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def current(self) -> Server:
        """The one that runs, or one that is started now."""
        if self._server is None:
            started = running_server(self._store)
            self._server = self._stack.enter_context(started)
        return self._server

    def end(self) -> str:
        """Stop it; returns what was wrong with its end, or nothing."""
        self._server = None
        try:
            self._stack.close()
        except (AssertionError, TimeoutError) as error:
            return f"the server did not end well: {error}"
        return ""


def verdicts(cases: Sequence[Case], *, num_seeds: int, directory: Path) -> Iterator[Verdict]:
    """Run the cases, one seed after the other."""
    with Servers(directory) as servers:
        for seed in range(1, num_seeds + 1):
            for case in cases:
                if seed > case.num_seeds:
                    continue
                server = None if case.is_own else servers.current()
                verdict = run(case, case.whole, server=server, store=directory, seed=seed)
                yield verdict
                if not verdict.is_kept:
                    servers.end()
        if what := servers.end():
            print(what)


def soak(minutes: float, *, directory: Path) -> Verdict:
    """Only the mixture, for so many minutes."""
    case = named("C20 soak")
    with running_server(directory) as server:
        sizes = {**case.whole, "seconds": minutes * 60}
        return run(case, sizes, server=server, store=directory, seed=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit status: 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(prog="tests.faults.run", description=__doc__)
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only the mixture, so long")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 1 on")
    parser.add_argument("--only", action="append", default=[], help="cases that begin with this")
    args = parser.parse_args(arguments)
    print(page.heads(), flush=True)
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="flambeau-faults-") as name:
        directory = Path(name)
        if args.soak is not None:
            found.append(soak(args.soak, directory=directory))
            print(page.line_of(found[0]))
        else:
            cases = beginning_with(args.only)
            for verdict in verdicts(cases, num_seeds=args.seeds, directory=directory):
                found.append(verdict)
                print(page.line_of(verdict), flush=True)
            for verdict in [] if args.only else collect(NODES):
                found.append(verdict)
                print(page.line_of(verdict), flush=True)
    if args.soak is None and not args.only:
        today = dt.datetime.now(tz=dt.timezone.utc).date().isoformat()
        text = page.render(found, machine.describe(), measured_on=today)
        page.PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {page.PAGE}")
    return int(any(verdict.missed or not verdict.is_kept for verdict in found))


if __name__ == "__main__":
    sys.exit(main())
