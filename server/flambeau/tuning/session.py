"""Tuning from start to end: serve, probe, search, measure the best again, write what won."""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flambeau.client import ServerRefused
from flambeau.config import ServeConfig
from flambeau.errors import ArchiveError, TuningError
from flambeau.messages import OptimizeLevel
from flambeau.tuning.candidate import Candidate
from flambeau.tuning.choice import Finalist, best_of, finalists_of, run_off
from flambeau.tuning.clients import Clients, num_clients_for
from flambeau.tuning.machine import Machine, this_machine
from flambeau.tuning.own_server import OwnServer, own_server
from flambeau.tuning.sample_requests import requests_of_files, requests_of_samples
from flambeau.tuning.search import search
from flambeau.tuning.slo import Slo, shown_time
from flambeau.tuning.space import space_of
from flambeau.tuning.trial import Bench, Trial
from flambeau.tuning.variants import Variants
from flambeau.written_aside import written_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flambeau.interrupt import Interrupt
    from flambeau.tuning.report import Report
    from flambeau.tuning.sample_requests import SampleRequests

_SEARCH_SHARE: Final = 0.7  # of the budget; the rest is for measuring the best again
_NUM_FINALISTS: Final = 3
_NUM_ROUNDS: Final = 3
_WINDOWS: Final = 250  # in a budget; some 40 configurations of 6, with time to load each
_MIN_WINDOW_S: Final = 0.2
_MAX_WINDOW_S: Final = 2.0
_MARK: Final = "# flambeau tune"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to tune, for what, and where the result goes.

    Attributes:
        archive: The model; it is only read.
        slo: The objective.
        budget_s: Seconds from the first measurement on, loading each configuration included.
        levels: What may be done to the model when it is loaded; not empty.
        bodies: Files with requests; empty takes the archive's samples.
        content_type: Of these files; None goes by their names.
        seed: For the order in which configurations are tried.
        output: The model's YAML is written here.
        new_archive: So is the archive with this YAML; None for none.
    """

    archive: Path
    slo: Slo
    budget_s: float
    levels: Sequence[OptimizeLevel]
    bodies: Sequence[Path]
    content_type: str | None
    seed: int
    output: Path
    new_archive: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How tuning ended.

    Attributes:
        winner: None when nothing met the objective.
        is_interrupted: By Ctrl-C; `winner` is the best so far then, and nothing is written.
    """

    winner: Finalist | None
    is_interrupted: bool = False


def tune(plan: Plan, report: Report, interrupt: Interrupt) -> Result:
    """Find and write the best configuration.

    Args:
        plan: What to do.
        report: Hears of what is found.
        interrupt: Entered; what was found until it comes is the result.

    Raises:
        FlambeauError: The model cannot be served or asked; nothing is written.
    """
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="flambeau-tune-"))
        variants = Variants(plan.archive, Path(temporary))
        machine = this_machine(may_use_gpus=variants.document.get("deviceType") != "cpu")
        model = variants.manifest.model_name or plan.archive.name.partition(".")[0]
        if plan.bodies:
            possible = [requests_of_files(plan.bodies, plan.content_type)]
        else:
            possible = requests_of_samples(variants.content)
        present = Candidate.of_yaml(variants.document, default_workers=machine.num_gpus or 1)
        with report.doing("starting a server"):
            server = stack.enter_context(
                own_server(
                    variants.store,
                    Path(temporary),
                    max_request_bytes=max(
                        ServeConfig().max_request_bytes, *(each.largest_bytes for each in possible)
                    ),
                )
            )
            requests, worker_bytes = _probe(server, variants, present, possible, model=model)
        clients = stack.enter_context(
            Clients(
                server.address,
                requests.as_http(model),
                num_clients=num_clients_for(machine.num_cpus),
            )
        )
        began_at = time.monotonic()
        report.say(
            f"{model}: objective {plan.slo}, requests are {requests.what}, {machine}, "
            f"{plan.budget_s:g} s"
        )
        bench = Bench(
            model=model,
            slo=plan.slo,
            variants=variants,
            server=server,
            clients=clients,
            window_s=min(max(plan.budget_s / _WINDOWS, _MIN_WINDOW_S), _MAX_WINDOW_S),
            stop_at=began_at + plan.budget_s,
        )
        tuning = _Tuning(
            plan,
            report,
            bench,
            machine,
            interrupt=interrupt,
            present=present,
            worker_bytes=worker_bytes,
        )
        result = tuning.run(search_until=began_at + plan.budget_s * _SEARCH_SHARE)
        if result.winner is not None and not result.is_interrupted:
            for path in _write(plan, variants, result.winner, machine):
                report.say(f"wrote {path}")
        return result


class _Tuning:
    """Search, run-off and their report; keeps what was found, should Ctrl-C come between."""

    def __init__(
        self,
        plan: Plan,
        report: Report,
        bench: Bench,
        machine: Machine,
        *,
        interrupt: Interrupt,
        present: Candidate,
        worker_bytes: int,
    ) -> None:
        # for the life of the session
        self._plan = plan
        self._report = report
        self._bench = bench
        self._machine = machine
        self._interrupt = interrupt
        self._present = present
        self._worker_bytes = worker_bytes
        self._trials: list[Trial] = []
        self._last_s = 0.0

    def run(self, *, search_until: float) -> Result:
        """Find the winner and say all about it."""
        is_interrupted = False
        finalists: list[Finalist] = []
        try:
            self._search(search_until)
            finalists = self._run_off()
        except KeyboardInterrupt:
            is_interrupted = True
            finalists = [Finalist(trial=t) for t in finalists_of(self._trials, count=1)]
        rounds = [trial for each in finalists for trial in each.rounds]
        self._report.frontier([*self._trials, *rounds])
        self._report.finalists(finalists)
        winner = best_of(finalists)
        self._conclude(winner, finalists, is_interrupted=is_interrupted)
        return Result(winner=winner, is_interrupted=is_interrupted)

    def _search(self, until: float) -> None:
        bench = replace(self._bench, stop_at=until)
        self._report.header()
        with self._report.doing("measuring the archive as it is"):
            present = self._timed(lambda: self._bench.measure(self._present, give_up_below=0.0))
        self._found(present, remark="the archive as it is")
        space = space_of(
            self._machine,
            present=self._present,
            worker_bytes=self._worker_bytes,
            slo=self._plan.slo,
            levels=self._plan.levels,
        )

        def measure(candidate: Candidate, *, give_up_below: float) -> Trial:
            return self._timed(lambda: bench.measure(candidate, give_up_below=give_up_below))

        trials = search(
            space,
            measure,
            present=present,
            is_over=lambda: self._is_too_late(until),
            seed=self._plan.seed,
        )
        while True:
            left_s = max(0.0, until - bench.clock())
            with self._report.doing(f"searching, {left_s:.0f} s left"):
                trial = next(trials, None)
            if trial is None:
                return
            self._found(trial)

    def _timed(self, work: Callable[[], Trial]) -> Trial:
        self._interrupt.check()
        began_at = self._bench.clock()
        trial = work()
        self._last_s = self._bench.clock() - began_at
        return trial

    def _is_too_late(self, until: float) -> bool:
        """Whether half of a measurement as long as the last one would be cut off."""
        return self._bench.clock() + self._last_s / 2 >= until

    def _found(self, trial: Trial, *, remark: str = "") -> None:
        self._trials.append(trial)
        self._report.trial(trial, remark=remark)

    def _run_off(self) -> list[Finalist]:
        best = finalists_of(self._trials, count=_NUM_FINALISTS)
        present = self._trials[0]
        if present.requests_per_s > 0 and present not in best:
            best.append(present)
        bench = replace(self._bench, stop_at=math.inf)  # a round that has begun is to count
        with self._report.doing("measuring the best again, in turn"):
            return run_off(
                best,
                lambda found: self._timed(lambda: bench.measure_again(found)),
                num_rounds=_NUM_ROUNDS,
                is_over=lambda: self._is_too_late(self._bench.stop_at),
            )

    def _conclude(
        self, winner: Finalist | None, finalists: Sequence[Finalist], *, is_interrupted: bool
    ) -> None:
        self._report.say("")
        if winner is None:
            self._report.say(
                f"no configuration met {self._plan.slo}; allow more time per request, or give "
                "the model a faster machine"
            )
            return
        title = "interrupted; best so far" if is_interrupted else "best"
        latency = shown_time(winner.latency_s) if winner.latency_s < math.inf else "-"
        self._report.say(
            f"{title}: {winner.requests_per_s:,.1f} requests per second, "
            f"p{self._plan.slo.highest.percentile} {latency}{self._ratio(winner, finalists)}"
        )
        for key, value in winner.trial.candidate.as_yaml().items():
            self._report.say(f"  {key}: {value}")

    def _ratio(self, winner: Finalist, finalists: Sequence[Finalist]) -> str:
        present = next((f for f in finalists if f.trial.candidate == self._present), None)
        before = present.requests_per_s if present else self._trials[0].requests_per_s
        if winner.trial.candidate == self._present:
            return ", with the archive as it is"
        return (
            f"; {winner.requests_per_s / before:.2f} times the archive as it is" if before else ""
        )


def _probe(
    server: OwnServer,
    variants: Variants,
    present: Candidate,
    possible: Sequence[SampleRequests],
    *,
    model: str,
) -> tuple[SampleRequests, int]:
    """The first kind of requests that the handler answers, and what a worker takes in memory.

    Raises:
        TuningError: It answers none, or the archive cannot be served as it is.
    """
    variant = variants.make(variants.yaml_of(present))
    try:
        server.register(variant.name, model=model)
        answers: list[str] = []
        for requests in possible:
            answer = server.predict(model, requests.bodies[0], requests.content_types[0])
            if answer.status_code == 200:
                return requests, server.memory_bytes(model) // present.workers
            text = " ".join(answer.text.split())[:300]
            answers.append(f"{requests.what}: status {answer.status_code}, {text}")
    except ServerRefused as error:
        raise TuningError(f"the archive cannot be served as it is: {error}") from error
    finally:
        server.unregister(model)
        variants.remove(variant)
    raise TuningError(
        "the model answers none of the requests there are; give one that it takes with --body FILE "
        "and --content-type TYPE. It said to\n" + "\n".join(answers)
    )


def _write(plan: Plan, variants: Variants, winner: Finalist, machine: Machine) -> list[Path]:
    """Write what the plan asks for; returns the files.

    Raises:
        ArchiveError: A file cannot be written.
    """
    in_flight = math.ceil(2 * winner.requests_per_s * plan.slo.longest_s)
    more: dict[str, int] = {}
    if in_flight > ServeConfig().job_queue_size and "jobQueueSize" not in variants.document:
        more["jobQueueSize"] = in_flight  # else bursts within the objective would be refused
    text = _with_mark(
        variants.yaml_of(winner.trial.candidate, **more),
        f"{_MARK} --slo {plan.slo}: {winner.requests_per_s:,.1f} requests per second on {machine}",
    )
    try:
        with written_aside(plan.output) as file:
            file.write(text.encode())
    except OSError as error:
        raise ArchiveError(f"{plan.output} cannot be written: {error}") from error
    if plan.new_archive is None:
        return [plan.output]
    variants.write_archive(plan.new_archive, text)
    return [plan.output, plan.new_archive]


def _with_mark(text: str, mark: str) -> str:
    """The text under a line that says where its settings are from; an older such line goes."""
    first, _, rest = text.partition("\n")
    return f"{mark}\n{rest if first.startswith(_MARK) else text}"
