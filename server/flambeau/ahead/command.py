"""`flambeau optimize`: find a model's fastest form ahead of time, compiled ones included.

What it finds stays in the user's cache, where a start of the same archive on this machine takes it
from at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flambeau.errors import ConfigError, OptimizingError
from flambeau.messages import OptimizeLevel

if TYPE_CHECKING:
    import argparse

    from flambeau.ahead.process import Order, Report
    from flambeau.optimizing.choice import Finding

_MAX_BATCH_SIZE: Final = 65_536  # as of a registration
_SHOWN_LINES: Final = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `run` reads."""
    parser.set_defaults(run=run)
    parser.add_argument(
        "model", metavar="NAME", help="an archive: a file, one of the model store, or its model"
    )
    parser.add_argument(
        "--level",
        choices=[OptimizeLevel.SAFE.value, OptimizeLevel.AUTO.value],
        help="safe: the same numbers; auto: fewer bits, too (default: the archive's `optimize`, "
        "or safe)",
    )
    parser.add_argument(
        "--max-batch-size",
        type=int,
        metavar="N",
        help="of the server: its batchSize (default: the archive's, or 1)",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu or cuda:N (default: the first GPU, or cpu)"
    )
    parser.add_argument(
        "--model-store",
        type=Path,
        default=Path(os.environ.get("FLAMBEAU_MODEL_STORE", "model_store")),
        help="where archives are looked for by name (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Optimise and print what was found.

    Returns:
        0.

    Raises:
        FlambeauError: The command line prints why and exits with 2.
    """
    # imported here, so that `flambeau --help` does not wait for it
    from flambeau.ahead.process import Order  # noqa: PLC0415
    from flambeau.tuning.command import find_archive  # noqa: PLC0415
    from flambeau.worker_launch import WORKER_MODULE  # noqa: PLC0415

    archive = find_archive(args.model, args.model_store)
    level, batch_size = _wishes_of(archive)
    if args.max_batch_size is not None:
        batch_size = args.max_batch_size
        if not 1 <= batch_size <= _MAX_BATCH_SIZE:
            raise ConfigError(f"--max-batch-size is {batch_size}; use 1 to {_MAX_BATCH_SIZE}")
    if args.level is not None:
        level = OptimizeLevel(args.level)
    elif level is OptimizeLevel.OFF:
        raise ConfigError(
            f"the YAML of {archive} says `optimize: off`, so a server would use nothing that is "
            "found; change it, or say --level"
        )
    order = Order(
        archive=str(archive.resolve()),
        level=level,
        max_batch_size=batch_size,
        device=_device(args.device),
        worker_module=WORKER_MODULE,
    )
    print(
        f"optimising {archive} for batches of up to {batch_size} on {order.device}; "
        "compiling takes minutes",
        flush=True,
    )
    report = carry_out(order)
    if report.failure:
        raise OptimizingError(f"{archive} cannot be optimised: {report.failure}")
    print(describe(report, batch_size=batch_size))
    return 0


def carry_out(order: Order) -> Report:
    """Do an order in a process of its own.

    Raises:
        OptimizingError: The process ended without a report, e.g. for lack of memory.
    """
    import msgspec  # noqa: PLC0415  # as above

    from flambeau.ahead.process import Report  # noqa: PLC0415  # as above

    with tempfile.TemporaryDirectory(prefix="flambeau-optimize-") as name:
        order_path, report_path = Path(name) / "order.json", Path(name) / "report.json"
        order_path.write_bytes(msgspec.json.encode(order))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "flambeau.ahead.process"),
                *(str(order_path), str(report_path)),
            ],
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if report_path.is_file():
            return msgspec.json.decode(report_path.read_bytes(), type=Report)
    said = "\n".join(done.stdout.splitlines()[-_SHOWN_LINES:])
    raise OptimizingError(f"optimising ended with exit status {done.returncode}:\n{said}")


def describe(report: Report, *, batch_size: int) -> str:
    """The forms as a table, the fastest first, then the choice."""
    lines = [f"{report.model}: {report.check}"]
    if report.findings:
        width = max(len(finding.candidate) for finding in report.findings)
        title = "form".ljust(width)
        lines += ["", f"{title}  ms alone  ms of {batch_size:<4} speed-up  max abs error"]
        ordered = sorted(report.findings, key=lambda each: -each.speed_up)
        lines += [_line(finding, width) for finding in ordered]
    lines += ["", f"chosen in {report.seconds:.0f} s: {report.chosen}"]
    return "\n".join(map(_printable, lines))


def _printable(line: str) -> str:
    """Text that came from a model's code must not drive the reader's terminal."""
    return "".join(char if char.isprintable() else "?" for char in line)


def _line(finding: Finding, width: int) -> str:
    name = finding.candidate.ljust(width)
    if finding.refused:
        return f"{name}  refused: {finding.refused}"
    if not finding.alone_s:
        return name
    return (
        f"{name}  {finding.alone_s * 1e3:8.3f}  {finding.batch_s * 1e3:10.3f} "
        f"{finding.speed_up:8.2f}  {finding.max_abs_error:13.2g}"
    )


def _wishes_of(archive: Path) -> tuple[OptimizeLevel, int]:
    """What the archive's YAML says, or a server's defaults.

    Raises:
        ArchiveError: The archive cannot be read, or its YAML cannot.
    """
    from flambeau.archive import unpack  # noqa: PLC0415  # as above
    from flambeau.model_settings import ModelSettings  # noqa: PLC0415  # as above
    from flambeau.model_yaml import read_model_yaml  # noqa: PLC0415  # as above

    with tempfile.TemporaryDirectory(prefix="flambeau-optimize-") as name:
        manifest = unpack(archive, Path(name) / "model")
        document = read_model_yaml(Path(name) / "model", manifest.config_file)
    settings = ModelSettings().with_yaml(document)
    return settings.optimize, settings.batch_size


def _device(wanted: str | None) -> str:
    """The device that is asked for, if it can be there.

    Raises:
        ConfigError: It cannot.
    """
    from flambeau.devices import count_gpus  # noqa: PLC0415  # as above

    num_gpus = count_gpus()
    there = ["cpu", *(f"cuda:{index}" for index in range(num_gpus))]
    device = wanted or ("cuda:0" if num_gpus else "cpu")
    if device not in there:
        raise ConfigError(f"--device is {device!r}; here there are {', '.join(there)}")
    return device
