"""`flambeau tune`: flags in, progress, the frontier and the model's YAML out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flambeau.errors import ArchiveError, ConfigError, FlambeauError, TuningError
from flambeau.messages import OptimizeLevel
from flambeau.tuning.slo import parse_duration, parse_slo

if TYPE_CHECKING:
    import argparse

_SUFFIXES: Final = (".mar", ".tar.gz", ".model")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `run` reads."""
    parser.set_defaults(run=run)
    parser.add_argument(
        "model", metavar="NAME", help="an archive: a file, one of the model store, or its model"
    )
    parser.add_argument(
        "--slo",
        required=True,
        metavar="TARGETS",
        help="latencies to keep, e.g. p99=20ms or p50=5ms,p99=20ms",
    )
    parser.add_argument(
        "--budget", default="5m", metavar="TIME", help="time to take, e.g. 90s (default: 5m)"
    )
    parser.add_argument(
        "--body",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a request's body, instead of the archive's samples; may be repeated",
    )
    parser.add_argument(
        "--content-type", metavar="TYPE", help="of the bodies (default: by the files' names)"
    )
    parser.add_argument(
        "--optimize",
        nargs="+",
        choices=[level.value for level in OptimizeLevel],
        default=[OptimizeLevel.OFF.value, OptimizeLevel.SAFE.value],
        metavar="LEVEL",
        help="levels to try: off, safe, and auto, which may change answers slightly "
        "(default: off safe)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where the model's YAML is written (default: beside the archive, ending in .yaml)",
    )
    parser.add_argument(
        "--archive", type=Path, metavar="FILE", help="write the archive with this YAML here, too"
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")
    parser.add_argument(
        "--model-store",
        type=Path,
        default=Path(os.environ.get("FLAMBEAU_MODEL_STORE", "model_store")),
        help="where archives are looked for by name (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the search and of the load (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Tune and write what won.

    Returns:
        0; 1 when nothing met the objective, and 130 when Ctrl-C ended it: nothing is written then.

    Raises:
        FlambeauError: The command line prints why and exits with 2.
    """
    # imported here, so that `flambeau --help` does not wait for it
    from flambeau.interrupt import Interrupt  # noqa: PLC0415
    from flambeau.tuning.report import Report  # noqa: PLC0415
    from flambeau.tuning.search import require_optuna  # noqa: PLC0415
    from flambeau.tuning.session import Plan, tune  # noqa: PLC0415

    slo = parse_slo(args.slo)
    budget_s = parse_duration(args.budget, flag="--budget")
    archive = find_archive(args.model, args.model_store)
    output = args.output or archive.with_name(f"{_stem(archive)}.yaml")
    for path in (output, args.archive):
        if path is not None:
            _check_writable(path, archive, force=args.force)
    require_optuna()
    plan = Plan(
        archive=archive,
        slo=slo,
        budget_s=budget_s,
        levels=[level for level in OptimizeLevel if level.value in args.optimize],
        bodies=args.body,
        content_type=args.content_type,
        seed=args.seed,
        output=output,
        new_archive=args.archive,
    )
    with Interrupt() as interrupt:
        result = tune(plan, Report(slo), interrupt)
    if result.is_interrupted:
        return 130
    return 0 if result.winner is not None else 1


def find_archive(name: str, store: Path) -> Path:
    """The archive that is meant.

    Args:
        name: A path, an entry of the store, or the name of a model that one archive there has.
        store: The model store.

    Raises:
        TuningError: There is none, or there are several.
    """
    from flambeau.store import ModelStore  # noqa: PLC0415  # as above

    path = Path(name)
    if path.is_file() or (path / "MAR-INF").is_dir():
        return path
    names = ModelStore(store).names()
    if name in names:
        return store / name
    found = [entry for entry in names if _model_of(store / entry) == name]
    if len(found) == 1:
        return store / found[0]
    if found:
        raise TuningError(
            f"{len(found)} archives in {store} have model {name!r}: {', '.join(found)}; name one"
        )
    there = ", ".join(names) or "no archives"
    raise TuningError(
        f"{name!r} is neither a file nor in {store}, which has {there}; "
        "give an archive, or another --model-store"
    )


def _model_of(archive: Path) -> str | None:
    from flambeau.archive import read_manifest  # noqa: PLC0415  # as above

    try:
        return read_manifest(archive).model_name
    except FlambeauError:
        return None  # somebody else's, and broken


def _stem(archive: Path) -> str:
    suffix = next((s for s in _SUFFIXES if archive.name.endswith(s)), "")
    return archive.name.removesuffix(suffix)


def _check_writable(path: Path, archive: Path, *, force: bool) -> None:
    """Before minutes are spent on what goes there."""
    if path.exists() and path.resolve() == archive.resolve():
        raise ConfigError(f"{path} is the archive that is tuned; write to another file")
    if path.exists() and not force:
        raise ArchiveError(f"{path} exists; choose another path, or say --force")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written: {path.parent} is no directory to write in")
