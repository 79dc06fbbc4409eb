"""`flambeau.export`: a live module becomes an archive, or the reason why not.

The program is written to a draft archive, unpacked and loaded again as a server would, and held
against the model (`proof.py`). Only then does the archive appear, with the proof inside.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

import flambeau
from flambeau.archive import unpack, write_archive
from flambeau.errors import ExportError
from flambeau.exporting.certificate import certificate_json
from flambeau.exporting.dims import DynamicDim, axes_of, check_sizes, resized
from flambeau.exporting.interface import (
    calibration_inputs,
    check_classes,
    eager_outputs,
    evaluating,
    input_names,
    signature_of,
    used_inputs,
)
from flambeau.exporting.lineage import lineage_json
from flambeau.exporting.payload import (
    CONFIG_FILE,
    DEFAULT_HANDLER,
    archive_path,
    check_name,
    full_batch,
    payload,
)
from flambeau.exporting.programs import Proved, listing, make, plans_for, prove_all
from flambeau.exporting.proof import Question
from flambeau.manifest import Manifest
from flambeau.parity import Samples, Tolerance
from flambeau.signature import (
    LINEAGE_PATH,
    PARITY_PATH,
    PROGRAMS_PATH,
    SAMPLES_PATH,
    SIGNATURE_PATH,
    Signature,
)
from flambeau.unpack_limits import UnpackLimits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flambeau.exporting.dims import Axes
    from flambeau.parity import Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: The archive.
        digest: Its sha256, in hexadecimal.
        signature: What the program takes and gives.
        parity: How the served program compares with the model on the samples.
        batch_sizes: Other batch sizes at which both agreed.
        programs: All programs with their proofs, the served one first.
        seconds: What the export took.
    """

    path: Path
    digest: str
    signature: Signature
    parity: Comparison
    batch_sizes: tuple[int, ...]
    programs: tuple[Proved, ...]
    seconds: float


def export(
    model: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    *,
    name: str,
    version: str,
    path: str | Path,
    target: str | Sequence[str] = "torchscript",
    precisions: Sequence[str] = ("fp32",),
    handler: str | Path | None = None,
    method: str | None = None,
    samples: torch.Tensor | Sequence[torch.Tensor] | None = None,
    calibration: torch.Tensor | Sequence[torch.Tensor] | None = None,
    dims: Sequence[DynamicDim] = (),
    classes: Sequence[str] | None = None,
    extra_files: Sequence[str | Path] = (),
    extra_content: Mapping[str, bytes] | None = None,
    model_config: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    tolerance: Tolerance | None = None,
    top1: float | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write an archive whose programs compute what `model` computes, at every batch size.

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
            `pip install 'flambeau[onnx]'`. Of several, the first is what every server runs; one of
            ours takes another where that is faster.
        precisions: Of each kind of program: `fp32`, `bf16`, `fp16`, and, of TorchScript for CPUs,
            `int8`; fp32 comes first.
        handler: A built-in handler's name, or the path of a Python file, `:function` after it or
            not; None means `base_handler`, which decodes tensors as the signature says.
        method: Of `torchscript`: `trace` (None, too) records one run; `script` compiles the source,
            branches included.
        samples: Real inputs to compare on and to record, as `example_inputs`, which they default
            to; the first 32 are used.
        calibration: Inputs that show int8 programs how large numbers become; None means `samples`.
        dims: Sizes that are open beside the batch, e.g. the length of a text.
        classes: Labels in the order of the model's classes.
        extra_files: Files, which go to the archive's root, and directories, whose content does.
        extra_content: More files for the root, by name.
        model_config: The model's settings, written as `model-config.yaml`.
        lineage: Where the model comes from, as plain data.
        tolerance: How far the program's outputs may be from the model's; None means `Tolerance()`.
            Fewer bits are allowed more, see `precision.py`.
        top1: The share of samples whose most probable class must be the model's, 0 to 1; None means
            all for programs with fewer bits, and is left to the tolerance else.
        description: For people.
        overwrite: Replace an existing file.

    Raises:
        ExportError: An argument is wrong, the model cannot be expressed as such a program, or the
            program computes something else; nothing is written then.
        ArchiveError: The archive cannot be written.
    """
    started_at = time.monotonic()
    created_at = datetime.now(timezone.utc)
    allowed = tolerance or Tolerance()
    targets = [target] if isinstance(target, str) else target
    plans = plans_for(targets, precisions, method=method, tolerance=allowed, top1=top1)
    served = plans[0]
    destination = _destination(path, name=name, version=version, overwrite=overwrite)
    handler_name, files = payload(
        handler=handler or DEFAULT_HANDLER,
        classes=classes,
        extra_files=extra_files,
        extra_content=extra_content,
        model_config=model_config,
    )
    files[LINEAGE_PATH] = lineage_json(lineage or {}, target=served.target, created_at=created_at)
    manifest = Manifest(
        model_name=name,
        model_version=version,
        handler=handler_name,
        serialized_file=served.file_name,
        config_file=CONFIG_FILE if CONFIG_FILE in files else None,
        description=description,
        created_on=created_at.strftime("%d/%m/%Y %H:%M:%S"),
        archiver_version=f"flambeau {flambeau.__version__}",
    )
    examples, used = used_inputs(model, example_inputs, samples)
    names = input_names(model, count=len(used))
    axes = axes_of(dims, names)
    check_sizes(examples, axes)
    check_sizes(used, axes)
    device = used[0].device
    with evaluating(model), TemporaryDirectory(prefix="flambeau-export-") as directory:
        outputs = eager_outputs(model, used)
        check_classes(classes, outputs)
        signature = _signature(model, names, used, outputs, axes=axes)
        recorded = Samples(
            inputs=used, outputs=tuple(outputs.values()), tolerance=served.tolerance
        ).to_safetensors()
        files |= {SIGNATURE_PATH: signature.to_json().encode(), SAMPLES_PATH: recorded}
        shown = used if calibration is None else calibration_inputs(calibration, examples)
        files |= make(plans, model, examples, Path(directory), axes=axes, calibration=shown)
        draft, model_dir = Path(directory) / "draft.mar", Path(directory) / "unpacked"
        write_archive(draft, manifest=manifest, files=files)
        unpack(draft, model_dir, limits=UnpackLimits(max_total_bytes=1 << 62))
        question = Question(
            model=model,
            samples=used,
            axes=axes,
            example_rows=len(examples[0]),
            full_batch=full_batch(model_config),
        )
        proved = prove_all(plans, question, model_dir, device=device)
        files[PARITY_PATH] = certificate_json(
            proved, samples_sha256=hashlib.sha256(recorded).hexdigest(), device=device
        )
        beside = listing(proved, device=device)
        if beside is not None:
            files[PROGRAMS_PATH] = beside
        _make_directory(destination.parent)
        written = write_archive(
            destination, manifest=manifest, files=files, overwrite=overwrite, digests=True
        )
    return ExportReport(
        path=destination,
        digest=written,
        signature=signature,
        parity=proved[0].proof.samples,
        batch_sizes=proved[0].proof.batch_sizes,
        programs=tuple(proved),
        seconds=time.monotonic() - started_at,
    )


def _signature(
    model: torch.nn.Module,
    names: Sequence[str],
    inputs: Sequence[torch.Tensor],
    outputs: Mapping[str, torch.Tensor],
    *,
    axes: Axes,
) -> Signature:
    """What the model takes and gives; a run at other sizes shows which are open in its outputs."""
    others = {
        dim.name: dim.min if tensor.shape[axis] == dim.max else dim.max
        for tensor, open_axes in zip(inputs, axes, strict=True)
        for axis, dim in open_axes.items()
    }
    resized_outputs: dict[str, torch.Tensor] = {}
    if others:
        what = f"its samples with {', '.join(f'{name} {size}' for name, size in others.items())}"
        resized_outputs = eager_outputs(model, resized(inputs, axes, others), what=what)
    return signature_of(names, inputs, outputs, axes=axes, resized_outputs=resized_outputs.values())


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
