"""The process of `flambeau optimize`: `python -m flambeau.ahead.process ORDER REPORT`.

It loads a model as a template does, with one thread, and chooses its form without a limit of time.
Both arguments are JSON files, as what a model prints must not be mistaken for the report.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

import flambeau
from flambeau.errors import FlambeauError
from flambeau.failure_text import text_of
from flambeau.messages import LoadModel, OptimizeLevel, OptimizeWish
from flambeau.optimizing.choice import Finding

_NO_LIMIT_S: Final = 86_400.0
_CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to optimise.

    Attributes:
        archive: A model archive.
        level: How far its model may be changed.
        max_batch_size: The size of a full batch.
        device: `cpu` or `cuda:N`.
        worker_module: Whose `load_entry_point` reads the archive.
    """

    archive: str
    level: OptimizeLevel
    max_batch_size: int
    device: str
    worker_module: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        model: Name and version.
        findings: All forms; empty when there was nothing to choose from.
        chosen: The choice, for people.
        check: What the comparison with the archive's samples found.
        seconds: From loading to the end.
        failure: Why there is nothing else; empty when there is.
    """

    model: str = ""
    findings: list[Finding] = []
    chosen: str = ""
    check: str = ""
    seconds: float = 0.0
    failure: str = ""


def main() -> int:
    """Do one order; the exit status is 0 when there is a report."""
    order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    with tempfile.TemporaryDirectory(prefix="flambeau-optimize-") as name:
        # private, and gone with the rest: by default, it is a folder that all users share
        os.environ[_CACHE_VARIABLE] = str(Path(name) / "inductor")
        report_path = Path(sys.argv[2]).resolve()
        try:
            report = _report(order, Path(name) / "model")
        except Exception as error:  # noqa: BLE001  # the model's code may raise anything
            known = isinstance(error, FlambeauError)
            text = text_of(error)
            report = Report(failure=text if known else f"{type(error).__name__}: {text}")
        report_path.write_bytes(msgspec.json.encode(report))
        os.chdir("/")  # out of the folder that is removed
    return 0


def _report(order: Order, model_dir: Path) -> Report:
    from flambeau.archive import digest, unpack  # noqa: PLC0415  # after the environment is set
    from flambeau.instance import ModelInstance  # noqa: PLC0415  # imports torch: as above

    began_at = time.perf_counter()
    archive = Path(order.archive)
    manifest = unpack(archive, model_dir)
    load = LoadModel(
        model_name=manifest.model_name or archive.stem,
        model_version=manifest.model_version,
        model_dir=str(model_dir),
        handler=None,
        device=order.device,
        max_batch_size=order.max_batch_size,
        num_threads=1,
        max_response_bytes=1 << 32,
        server_version=flambeau.__version__,
        optimize=OptimizeWish(
            level=order.level,
            within_s=_NO_LIMIT_S,
            archive_digest=digest(archive),
            compile=True,
        ),
    )
    os.chdir(model_dir)
    worker = importlib.import_module(order.worker_module)
    instance = ModelInstance.load(load, load_entry_point=worker.load_entry_point)
    instance.warm_up()
    check = instance.check()
    optimizer = instance.optimizer
    return Report(
        model=f"{load.model_name} {load.model_version}",
        findings=[] if optimizer is None else optimizer.findings,
        chosen=instance.optimization,
        check=check,
        seconds=time.perf_counter() - began_at,
    )


if __name__ == "__main__":
    sys.exit(main())
