"""Measure training, serving, swaps and growth; print it and write it to `docs/benchmarks.md`.

    python -m benchmarks.run            # minutes
    python -m benchmarks.run --quick    # one short round of each; prints only

The server runs as users run it and is spoken to over HTTP; see `server.py`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import (
    accuracy,
    bare,
    budget,
    growth,
    half_load,
    load,
    machine,
    report,
    start,
    swap,
)
from benchmarks.figures import HERE, QUOTED, Results, Round, save
from benchmarks.sampling import SamplerError
from benchmarks.server import FLAMBEAU, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures_budget import Budget

MODEL = "digits"
SAMPLE_SHAPE = (1, 32, 32)  # what training/configs/digits_lenet.toml feeds LeNet-5
BATCH_SIZE = 16
CONNECTIONS = (1, 16, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much to measure."""

    overrides: tuple[str, ...] = ()
    num_rounds: int = 5
    round_s: float = 4.0
    num_swaps: int = 5
    num_requests: int = 3000
    num_windows: int = 5
    swaps_per_window: int = 4
    quiet_s: float = 4.0
    num_starts: int = 2
    budget_s: float = 6.0
    sizes: growth.Sizes = field(default_factory=growth.Sizes)


QUICK = Plan(
    overrides=("epochs=2",),
    num_rounds=1,
    round_s=1.0,
    num_swaps=1,
    num_requests=200,
    num_windows=1,
    swaps_per_window=1,
    quiet_s=1.0,
    num_starts=1,
    budget_s=1.0,
    sizes=growth.QUICK,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 when a request failed, a version was wrong, or training did not repeat."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    quick: bool = parser.parse_args(arguments).quick
    try:
        load.find_wrk()
    except load.LoadGeneratorMissingError as error:
        print(error, file=sys.stderr)
        return 1
    results = measure(QUICK if quick else Plan())
    page = report.render(results)
    print(page)
    if not quick:
        now = dt.datetime.now(tz=dt.timezone.utc)
        save(results, HERE / f"{now:%Y%m%dT%H%M%SZ}.json")
        save(results, QUOTED)
        report.PAGE.write_text(page, encoding="utf-8")
    return 0 if is_sound(results) else 1


def is_sound(results: Results) -> bool:
    """Whether the answers were right, whatever their speed."""
    errors = sum(load.num_errors for one in results.rounds for load in one.loads)
    swaps = results.swaps
    bad = errors + swaps.num_failed + swaps.num_wrong
    if (cost := results.half_load) is not None:
        bad += cost.num_wrong + cost.quiet.num_errors + cost.swapping.num_errors
    if results.growth is not None:
        bad += results.growth.num_errors
    return results.training.identical and not bad


def measure(plan: Plan) -> Results:
    """Everything, one after the other, in directories that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="flambeau-bench-") as name:
        directory = Path(name)
        _say("training twice")
        runs = [
            accuracy.train(directory / which, overrides=plan.overrides)
            for which in ("first", "second")
        ]
        archive = export(runs[0].checkpoint, directory / "model_store" / "digits-1.0.mar")
        rounds = measure_rounds(plan, archive=archive, directory=directory)
        _say(f"{plan.num_swaps} swaps under load")
        swaps = swap.measure(
            _fresh(directory / "swap"),
            num_swaps=plan.num_swaps,
            num_requests=plan.num_requests,
            connections=16,
        )
        _say(f"{plan.num_windows * plan.swaps_per_window} swaps at half load")
        swap_cost = half_load.measure(
            _fresh(directory / "half_load"),
            num_windows=plan.num_windows,
            swaps_per_window=plan.swaps_per_window,
            quiet_s=plan.quiet_s,
        )
        _say("starts")
        started = start.measure(_fresh(directory / "start"), num_rounds=plan.num_starts)
        _say("growth")
        grown = growth.measure(_fresh(directory / "growth"), plan.sizes)
        budgets = measure_budgets(plan, _fresh(directory / "budget"))
    return Results(
        measured_on=dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
        machine=machine.describe(),
        training=accuracy.compare(*runs),
        rounds=rounds,
        round_s=plan.round_s,
        batch_size=BATCH_SIZE,
        swaps=swaps,
        half_load=swap_cost,
        start=started,
        growth=grown,
        budgets=budgets,
    )


def export(checkpoint: Path, archive: Path) -> Path:
    """An archive of the checkpoint that takes raw tensors."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    arguments = [
        *(str(FLAMBEAU), "export", "--checkpoint", str(checkpoint), "--name", MODEL),
        *("--version", "1.0", "--handler", "base_handler", "--output", str(archive)),
    ]
    subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)
    return archive


def measure_rounds(plan: Plan, *, archive: Path, directory: Path) -> list[Round]:
    """The bare model and the server by turns, so that a slow minute hits both."""
    sample = np.random.default_rng(0).standard_normal(SAMPLE_SHAPE).astype("<f4")
    body = directory / "sample.f32"
    body.write_bytes(sample.tobytes())
    rounds: list[Round] = []
    with serve("--model-store", "model_store", "--no-access-log", cwd=directory) as server:
        server.register(archive.name, num_workers=1, batch_size=BATCH_SIZE)
        url = f"{server.inference_url}/predictions/{MODEL}"
        load.measure(url, body=body, connections=max(CONNECTIONS), seconds=1)  # warms all up
        for number in range(1, plan.num_rounds + 1):
            _say(f"round {number} of {plan.num_rounds}")
            rounds.append(
                Round(
                    bare=bare.measure(
                        archive, body=body, seconds=plan.round_s, batch_sizes=[1, BATCH_SIZE]
                    ),
                    loads=[
                        load.measure(url, body=body, connections=c, seconds=plan.round_s)
                        for c in CONNECTIONS
                    ],
                )
            )
    return rounds


def measure_budgets(plan: Plan, directory: Path) -> list[Budget]:
    """Where the time of a request goes; none where the sampler may not look."""
    _say("budget of a request")
    try:
        found = budget.measure(directory, seconds=plan.budget_s)
    except SamplerError as error:
        _say(f"no budget: {error}")
        return []
    budget.keep(directory)
    return found


def _fresh(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
