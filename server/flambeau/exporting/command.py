"""`flambeau export`: flags in, an archive and a short report out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flambeau.archive_summary import describe_signature
from flambeau.errors import ExportError
from flambeau.exporting.options import Method, Precision, Target

if TYPE_CHECKING:
    import argparse

    from flambeau.exporting.module import ExportReport
    from flambeau.exporting.programs import Proved


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `run` reads."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", type=Path, help="the file or directory of shards that training wrote"
    )
    source.add_argument(
        "--hub",
        metavar="REPOSITORY:MODEL",
        help="a model of a torch.hub repository: a directory with hubconf.py, or OWNER/NAME[:REF]",
    )
    source.add_argument(
        "--hugging-face",
        type=Path,
        metavar="FOLDER",
        help="a model of transformers: config.json and model.safetensors",
    )
    parser.add_argument(
        "--factory",
        metavar="MODULE:FUNCTION",
        help="what makes the model, if the checkpoint does not say so",
    )
    parser.add_argument(
        "--factory-args", metavar="JSON", help="""what it is called with, e.g. '{"classes": 3}'"""
    )
    parser.add_argument(
        "--samples",
        type=Path,
        metavar="FILE",
        help="inputs to compare on: .safetensors, its tensors in the order of their names (of "
        "Hugging Face: named as the model's arguments), or .npy",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SHAPE[:DTYPE]",
        help="made-up samples of this shape without the batch, e.g. 3,224,224 or 128:int64; one "
        "for each of the model's inputs",
    )
    parser.add_argument("--name", required=True, help="the model's name")
    parser.add_argument("--version", required=True, help="the model's version, e.g. 1.0")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("model_store"),
        metavar="PATH",
        help="directory for NAME-VERSION.mar, or a file ending in .mar (default: model_store)",
    )
    parser.add_argument(
        "--target",
        action="append",
        choices=[target.value for target in Target],
        help="kind of program (default: torchscript); the first of several is what every server "
        "runs, one of ours takes another where that is faster",
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=[precision.value for precision in Precision],
        help="what programs compute with (default: fp32); may be repeated, fp32 comes first",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="inputs that show int8 programs how large numbers become, as --samples, which it "
        "defaults to",
    )
    parser.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="NAME=MIN:MAX:INPUT.AXIS[,...]",
        help="a size that is open beside the batch, e.g. length=2:128:tokens.1,mask.1",
    )
    parser.add_argument(
        "--method",
        choices=[method.value for method in Method],
        help="torchscript: record one run, or compile the source (default: trace)",
    )
    parser.add_argument(
        "--handler", help="a built-in handler's name, or FILE.py, or FILE.py:FUNCTION"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the model's settings, YAML")
    parser.add_argument(
        "--extra-files",
        action="append",
        default=[],
        metavar="PATH[,PATH...]",
        help="files, and directories whose content goes into the archive; may be repeated",
    )
    parser.add_argument("--atol", type=float, help="absolute tolerance (default: 1e-5)")
    parser.add_argument("--rtol", type=float, help="relative tolerance (default: 1e-4)")
    parser.add_argument(
        "--top1",
        type=float,
        metavar="SHARE",
        help="least share of samples whose most probable class stays (default: 1 with fewer bits)",
    )
    parser.add_argument("--description", help="for people")
    parser.add_argument("--force", action="store_true", help="replace an existing archive")


def run(args: argparse.Namespace) -> int:
    """Export and print what was made; the current directory is where factories are looked for.

    Returns:
        0.

    Raises:
        FlambeauError: Nothing was made; the command line prints why and exits with 2.
    """
    # torch is imported here, so that `flambeau --help` does not wait for it
    from flambeau.exporting.checkpoint import export_checkpoint  # noqa: PLC0415
    from flambeau.exporting.dims import DynamicDim  # noqa: PLC0415
    from flambeau.exporting.hub import export_hub  # noqa: PLC0415
    from flambeau.exporting.hugging_face import export_hugging_face  # noqa: PLC0415
    from flambeau.parity import Tolerance  # noqa: PLC0415

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    stated = {"atol": args.atol, "rtol": args.rtol, "top1": args.top1}
    try:
        tolerance = Tolerance(**{k: v for k, v in stated.items() if v is not None})
    except ValueError as error:
        raise ExportError(f"--{error}") from error
    options: dict[str, Any] = {
        "name": args.name,
        "version": args.version,
        "path": args.output,
        "target": args.target or [Target.TORCHSCRIPT.value],
        "precisions": args.precision or [Precision.FP32.value],
        "calibration": _read_inputs(args, args.calibration, flag="--calibration"),
        "dims": [DynamicDim.from_text(text) for text in args.dim],
        "handler": args.handler,
        "method": args.method,
        "extra_files": [p for given in args.extra_files for p in given.split(",") if p],
        "model_config": _read_config(args.config),
        "tolerance": tolerance,
        "top1": args.top1,
        "description": args.description,
        "overwrite": args.force,
        "samples": _read_samples(args),
        "factory_kwargs": _read_arguments(args.factory_args),
    }
    if args.hugging_face is not None:
        if options.pop("factory_kwargs") is not None or args.factory is not None:
            raise ExportError("--hugging-face knows what makes its model; leave --factory out")
        report = export_hugging_face(args.hugging_face, **options)
    elif args.hub is not None:
        report = export_hub(args.hub, **options)
    else:
        report = export_checkpoint(args.checkpoint, factory=args.factory, **options)
    print(describe_report(report))
    return 0


def _read_samples(args: argparse.Namespace) -> Any:  # noqa: ANN401  # what the source's export takes
    from flambeau.exporting.inputs import made_up  # noqa: PLC0415  # as above

    if args.samples is not None and args.input:
        raise ExportError("--samples and --input both say what the inputs are; give one of them")
    if args.input:
        return tuple(made_up(text) for text in args.input)
    return _read_inputs(args, args.samples, flag="--samples")


def _read_inputs(args: argparse.Namespace, path: Path | None, *, flag: str) -> Any:  # noqa: ANN401
    """The inputs in a file, by name for models that know theirs; None without a file."""
    from flambeau.exporting.hugging_face import read_named_inputs  # noqa: PLC0415  # as above
    from flambeau.exporting.inputs import read_inputs  # noqa: PLC0415  # as above

    if path is None:
        return None
    is_named = args.hugging_face is not None and path.suffix == ".safetensors"
    return read_named_inputs(path, flag=flag) if is_named else read_inputs(path, flag=flag)


def describe_report(report: ExportReport) -> str:
    """What was made and how well it agrees, in a few lines."""
    batches = ", ".join(map(str, report.batch_sizes))
    size_mb = report.path.stat().st_size / 1e6
    served, *others = report.programs
    return "\n".join(
        [
            f"archive  {report.path} ({size_mb:.2f} MB, made in {report.seconds:.1f} s)",
            f"sha256   {report.digest}",
            *describe_signature(report.signature),
            f"parity   {report.parity.num_samples} samples agree: {_agreement(served)}",
            f"batches  {batches} agree",
            *(f"beside   {each.plan.file_name}: {_agreement(each)}" for each in others),
        ]
    )


def _agreement(proved: Proved) -> str:
    found = proved.proof.samples
    text = f"largest error {found.max_abs_error:.2g} absolute, mean {found.mean_abs_error:.2g}"
    if found.top1_agreement is not None:
        text += f", top-1 {found.top1_agreement:.1%} the same"
    return text


def _read_arguments(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise ExportError(f"--factory-args is not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ExportError(f"--factory-args is {text}; make it an object of arguments by name")
    return arguments


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        document = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ExportError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ExportError(f"--config {path} holds {type(document).__name__}; make it a mapping")
    return document
