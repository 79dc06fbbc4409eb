"""Measure training, serving and hot swaps; print the tables and write them to `docs/benchmarks.md`.

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import accuracy, bare, load, machine, report, swap
from benchmarks.figures import HERE, QUOTED, Results, Round, save
from benchmarks.server import FLAMBEAU, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "digits"
SAMPLE_SHAPE = (1, 32, 32)  # what training/configs/digits_lenet.toml feeds LeNet-5
BATCH_SIZE = 16
CONNECTIONS = (1, 16, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much to measure."""

    overrides: tuple[str, ...] = ()
    num_rounds: int = 5
    round_s: float = 5.0
    num_swaps: int = 5
    num_requests: int = 3000


QUICK = Plan(overrides=("epochs=2",), num_rounds=1, round_s=1.0, num_swaps=1, num_requests=200)


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
    return results.training.identical and not (errors or swaps.num_failed or swaps.num_wrong)


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
        (directory / "swap").mkdir()
        swaps = swap.measure(
            directory / "swap",
            num_swaps=plan.num_swaps,
            num_requests=plan.num_requests,
            connections=16,
        )
    return Results(
        measured_on=dt.datetime.now(tz=dt.timezone.utc).date().isoformat(),
        machine=machine.describe(),
        training=accuracy.compare(*runs),
        rounds=rounds,
        round_s=plan.round_s,
        batch_size=BATCH_SIZE,
        swaps=swaps,
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


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
