"""`flambeau.export`: a live module becomes an archive, or the reason why not.

The program is written to a draft archive, unpacked and loaded again as a server would, and held
against the model (`proof.py`). Only then does the archive appear, with the proof inside.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

import flambeau
from flambeau.archive import digest, unpack, write_archive
from flambeau.errors import ExportError
from flambeau.exporting.interface import check_alike, check_classes, checked_inputs, signature_of
from flambeau.exporting.lineage import lineage_json
from flambeau.exporting.options import Method, Target, chosen
from flambeau.exporting.payload import (
    CONFIG_FILE,
    DEFAULT_HANDLER,
    archive_path,
    check_name,
    payload,
)
from flambeau.exporting.program import program_format
from flambeau.exporting.proof import prove, run
from flambeau.manifest import Manifest
from flambeau.parity import Samples, Tolerance
from flambeau.signature import LINEAGE_PATH, PARITY_PATH, SAMPLES_PATH, SIGNATURE_PATH, Signature
from flambeau.unpack_limits import UnpackLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from flambeau.exporting.program import ProgramFormat
    from flambeau.parity import Comparison

MAX_SAMPLES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: The archive.
        digest: Its sha256, in hexadecimal.
        signature: What the program takes and gives.
        parity: How the program compares with the model on the samples.
        batch_sizes: Other batch sizes at which both agreed.
        seconds: What the export took.
    """

    path: Path
    digest: str
    signature: Signature
    parity: Comparison
    batch_sizes: tuple[int, ...]
    seconds: float


def export(
    model: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    *,
    name: str,
    version: str,
    path: str | Path,
    target: str = "torchscript",
    handler: str | Path | None = None,
    method: str | None = None,
    samples: torch.Tensor | Sequence[torch.Tensor] | None = None,
    classes: Sequence[str] | None = None,
    extra_files: Sequence[str | Path] = (),
    model_config: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    tolerance: Tolerance | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write an archive whose program computes what `model` computes, at every batch size.

    The model is run in evaluation mode where it is, and its modes are restored. A trace may fix
    the device it was made on, so export from the CPU what is to be served on either.

    Args:
        model: Takes and gives tensors whose first dimension is the batch.
        example_inputs: The model's positional arguments, (B, ...) each with B of 1 or more.
        name: The model's name: letters, digits, `.`, `_`, `-`.
        version: Its version, of the same characters.
        path: A file ending in `.mar`, or a directory, where the file becomes
            `<name>-<version>.mar` so that versions live side by side. Made if it does not exist.
        target: The kind of program: `torchscript`; `torch_export`; `aot_inductor`, which is machine
            code for this kind of device and this PyTorch; `onnx`, for which
            `pip install 'flambeau[onnx]'`.
        handler: A built-in handler's name, or the path of a Python file, `:function` after it or
            not; None means `base_handler`, which decodes tensors as the signature says.
        method: Of `torchscript`: `trace` (None, too) records one run; `script` compiles the source,
            branches included.
        samples: Real inputs to compare on and to record, as `example_inputs`, which they default
            to; the first 32 are used.
        classes: Labels in the order of the model's classes.
        extra_files: Files, which go to the archive's root, and directories, whose content does.
        model_config: The model's settings, written as `model-config.yaml`.
        lineage: Where the model comes from, as plain data.
        tolerance: How far the program's outputs may be from the model's; None means `Tolerance()`.
        description: For people.
        overwrite: Replace an existing file.

    Raises:
        ExportError: An argument is wrong, the model cannot be expressed as such a program, or the
            program computes something else; nothing is written then.
        ArchiveError: The archive cannot be written.
    """
    started_at = time.monotonic()
    created_at = datetime.now(timezone.utc)
    kind = chosen(Target, target)
    program = program_format(kind, method=None if method is None else chosen(Method, method))
    destination = _destination(path, name=name, version=version, overwrite=overwrite)
    handler_name, files = payload(
        handler=handler or DEFAULT_HANDLER,
        classes=classes,
        extra_files=extra_files,
        model_config=model_config,
    )
    files[LINEAGE_PATH] = lineage_json(lineage or {}, target=kind, created_at=created_at)
    manifest = Manifest(
        model_name=name,
        model_version=version,
        handler=handler_name,
        serialized_file=program.file_name,
        config_file=CONFIG_FILE if CONFIG_FILE in files else None,
        description=description,
        created_on=created_at.strftime("%d/%m/%Y %H:%M:%S"),
        archiver_version=f"flambeau {flambeau.__version__}",
    )
    examples, used = _inputs(model, example_inputs, samples)
    with _evaluating(model), TemporaryDirectory(prefix="flambeau-export-") as directory:
        outputs = _eager_outputs(model, used)
        check_classes(classes, outputs)
        recorded = Samples(
            inputs=used, outputs=tuple(outputs.values()), tolerance=tolerance or Tolerance()
        )
        signature = signature_of(model, used, outputs)
        files[SIGNATURE_PATH] = signature.to_json().encode()
        files[SAMPLES_PATH] = recorded_bytes = recorded.to_safetensors()
        files[program.file_name] = program_path = Path(directory) / program.file_name
        program.save(model, examples, program_path)
        draft = Path(directory) / "draft.mar"
        write_archive(draft, manifest=manifest, files=files)
        proof = prove(
            model,
            _served(draft, program, device=used[0].device),
            used,
            example_rows=len(examples[0]),
            tolerance=recorded.tolerance,
            frozen_batch_hint=program.frozen_batch_hint,
        )
        files[PARITY_PATH] = proof.to_json(
            tolerance=recorded.tolerance,
            samples_sha256=hashlib.sha256(recorded_bytes).hexdigest(),
            weights_sha256=digest(program_path),
        )
        _make_directory(destination.parent)
        written = write_archive(
            destination, manifest=manifest, files=files, overwrite=overwrite, digests=True
        )
    return ExportReport(
        path=destination,
        digest=written,
        signature=signature,
        parity=proof.samples,
        batch_sizes=proof.batch_sizes,
        seconds=time.monotonic() - started_at,
    )


def _destination(path: str | Path, *, name: str, version: str, overwrite: bool) -> Path:
    check_name(name, what="name")
    check_name(version, what="version")
    destination = archive_path(Path(path), name=name, version=version)
    if destination.exists() and not overwrite:
        raise ExportError(
            f"{destination} exists; give another version or path, or say overwrite (--force)"
        )
    return destination


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make the directory {path}: {error.strerror}") from error


def _inputs(
    model: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    samples: torch.Tensor | Sequence[torch.Tensor] | None,
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Example inputs, and the samples to record, both where the model is."""
    examples = checked_inputs(example_inputs, what="example inputs")
    used = examples if samples is None else checked_inputs(samples, what="samples")
    check_alike(used, examples)
    weights = [*model.parameters(), *model.buffers()]
    device = weights[0].device if weights else examples[0].device
    return (
        tuple(tensor.to(device) for tensor in examples),
        tuple(tensor[:MAX_SAMPLES].to(device) for tensor in used),
    )


def _eager_outputs(
    model: torch.nn.Module, samples: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    try:
        return run(model, samples)
    except Exception as error:  # the model's code runs here and may raise anything
        raise ExportError(
            f"the model fails on its samples: {type(error).__name__}: {error}"
        ) from error


def _served(draft: Path, program: ProgramFormat, *, device: torch.device) -> Callable[..., object]:
    """The program as a server gets it: out of the archive."""
    model_dir = draft.parent / "unpacked"
    unpack(draft, model_dir, limits=UnpackLimits(max_total_bytes=1 << 62))
    return program.load(model_dir / program.file_name, device=device)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Generator[None]:
    """Evaluation mode for every module in it, and afterwards the mode that each had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
