"""One work: all its servers are started, then measured by turns, each alone.

A server is still while another is measured, so that its idle work costs the other nothing, and a
slow minute of the machine hits all alike. Each round begins with another server.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import load
from benchmarks.peers import gate
from benchmarks.peers.bare_loop import looping
from benchmarks.peers.environment import EnvironmentMissingError
from benchmarks.peers.peer import NUM_THREADS, Job, Variant
from benchmarks.peers.results import Absence, Timed, TimedBare, Tuning
from benchmarks.peers.roster import PEERS
from benchmarks.peers.running import PeerFailedError, RunningPeer, running
from flambeau.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from benchmarks.peers.bare_loop import BareLoop
    from benchmarks.peers.plan import Bout, Entry, Plan
    from benchmarks.peers.results import Results
    from benchmarks.peers.work import Prepared


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An entry whose server runs, and gave right answers."""

    entry: Entry
    server: RunningPeer


def measure(
    bout: Bout, prepared: Prepared, plan: Plan, results: Results, *, save: Callable[[], None]
) -> None:
    """Add what is missing in the results; `save` is called after each turn."""
    missing = [
        entry
        for entry in bout.entries
        if any(_missing(results, bout, entry, number) for number in _rounds(plan))
    ]
    bare_missing = any(_bare_missing(results, bout, number) for number in _rounds(plan))
    if not missing and not bare_missing:
        return
    with ExitStack() as stack:
        loop = stack.enter_context(_loop(prepared)) if bout.bare_batch_sizes else None
        contestants = [
            contestant
            for entry in missing
            if (contestant := _enter(stack, entry, bout, prepared, results)) is not None
        ]
        for number in _rounds(plan):
            _say(f"{bout.work.name}: round {number} of {plan.num_rounds}")
            if loop is not None and _bare_missing(results, bout, number):
                _measure_bare(loop, bout, plan, results, number=number)
                save()
            first = number % max(1, len(contestants))
            for contestant in contestants[first:] + contestants[:first]:
                if _missing(results, bout, contestant.entry, number):
                    try:
                        results.timed += _turn(contestant, bout, prepared, plan, number=number)
                    except subprocess.CalledProcessError:  # wrk could not connect
                        contestants.remove(contestant)
                        reason = (
                            f"failed under load; its last lines:\n{contestant.server.log_tail()}"
                        )
                        _leave(contestant.entry, bout, results, reason=reason)
                    save()


def _rounds(plan: Plan) -> range:
    return range(1, plan.num_rounds + 1)


def _enter(
    stack: ExitStack, entry: Entry, bout: Bout, prepared: Prepared, results: Results
) -> Contestant | None:
    """Start it and ask for all answers; None, and a line in the results, when it cannot."""
    _say(f"{bout.work.name}: starting {entry.name}")
    results.forget_absence(bout.work.name, entry.peer, entry.variant)
    _tune(entry, bout, prepared, results)
    with ExitStack() as own:
        try:
            server = own.enter_context(started(entry.peer, prepared, variant=entry.variant))
            only_top = entry.variant is Variant.AUTO
            gate.wait_answering(server, prepared, only_top=only_top)
            gate.check(server, prepared, only_top=only_top)
        except (PeerFailedError, EnvironmentMissingError, ConfigError) as error:
            _leave(entry, bout, results, reason=str(error))
            return None
        server.freeze()
        stack.push(own.pop_all())
    return Contestant(entry=entry, server=server)


def _tune(entry: Entry, bout: Bout, prepared: Prepared, results: Results) -> None:
    """Run what is to be run before the first start; without it, the server does what it can."""
    tune = PEERS[entry.peer].tune
    if tune is None:
        return
    began_at = time.perf_counter()
    try:
        tune(prepared, entry.variant)
    except subprocess.CalledProcessError as error:
        _say(f"{bout.work.name}: {entry.name} is not tuned: {error}")
        return
    mine = (bout.work.name, entry.peer, entry.variant)
    results.tunings = [x for x in results.tunings if (x.work, x.peer, x.variant) != mine]
    seconds = time.perf_counter() - began_at
    results.tunings.append(
        Tuning(work=mine[0], peer=mine[1], variant=mine[2], seconds=round(seconds, 1))
    )


def _leave(entry: Entry, bout: Bout, results: Results, *, reason: str) -> None:
    _say(f"{bout.work.name}: {entry.name} takes no part: {reason}")
    results.add_absence(
        Absence(
            work=bout.work.name,
            peer=entry.peer,
            variant=entry.variant,
            reason=reason.partition("; its last lines")[0],
        )
    )


@contextmanager
def started(peer: str, prepared: Prepared, *, variant: Variant) -> Generator[RunningPeer]:
    """A server that was just started on a work, in a directory of its own.

    Raises:
        EnvironmentMissingError: It cannot be installed.
        ConfigError: TorchServe cannot.
    """
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        python = PEERS[peer].interpreter()
        job = Job(prepared=prepared, variant=variant, directory=directory, python=python)
        with running(PEERS[peer].launch(job), directory=directory) as server:
            yield server


def _turn(
    contestant: Contestant, bout: Bout, prepared: Prepared, plan: Plan, *, number: int
) -> list[Timed]:
    """All measurements of one server in one round."""
    entry, server = contestant.entry, contestant.server
    ask = partial(
        load.measure,
        server.launch.url,
        body=prepared.bodies,
        content_type=prepared.content_type,
        to_last_answer=bout.work.is_slow,
    )
    found: list[Timed] = []
    server.thaw()
    try:
        ask(connections=max(entry.connections), seconds=plan.warm_up_s)
        for connections in entry.connections:
            before_s = server.cpu_s()
            loaded = ask(connections=connections, seconds=plan.seconds_of(bout.work))
            cpu_s = server.cpu_s() - before_s
            found.append(
                Timed(
                    round=number,
                    work=bout.work.name,
                    peer=entry.peer,
                    variant=entry.variant,
                    load=loaded,
                    cpu_us=cpu_s / max(1, loaded.num_requests) * 1e6,
                )
            )
            _say(
                f"    {entry.name}, {connections}: {loaded.requests_per_s:,.0f}/s, "
                f"p50 {loaded.p50_ms:.2f} ms, {loaded.num_errors} errors"
            )
    finally:
        server.freeze()
    return found


@contextmanager
def _loop(prepared: Prepared) -> Generator[BareLoop]:
    with looping(
        prepared.program,
        sample=prepared.bodies[0],
        shape=prepared.sample_shape,
        num_threads=NUM_THREADS,
    ) as loop:
        yield loop


def _measure_bare(loop: BareLoop, bout: Bout, plan: Plan, results: Results, *, number: int) -> None:
    for batch_size in bout.bare_batch_sizes:
        answer = loop.measure(batch_size=batch_size, seconds=plan.round_s)
        results.bare.append(
            TimedBare(round=number, work=bout.work.name, form=answer.form, bare=answer.bare)
        )
        _say(f"    bare, batch {batch_size}: {answer.bare.samples_per_s:,.0f}/s, {answer.form}")


def _missing(results: Results, bout: Bout, entry: Entry, number: int) -> bool:
    wanted = (number, bout.work.name, entry.peer, entry.variant)
    return not any((t.round, t.work, t.peer, t.variant) == wanted for t in results.timed)


def _bare_missing(results: Results, bout: Bout, number: int) -> bool:
    found = {(each.round, each.work) for each in results.bare}
    return bool(bout.bare_batch_sizes) and (number, bout.work.name) not in found


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)
