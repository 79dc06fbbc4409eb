r"""`torch-model-archiver`: model files in, an archive out, with the same flags and artefacts.

    flambeau archive --model-name digits --version 1.0 --handler image_classifier \
        --model-file net.py --serialized-file net.pth

What TorchServe's tool does beyond that, e.g. staging in a directory that every run shares, is left
out. The Python names of the tool are in `names/model_archiver/`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path

import flambeau
from flambeau.archive import list_of_sources
from flambeau.file_digests import FILES_PATH
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.torchserve.archive_files import (
    ArchiveFormat,
    Files,
    ModelArchiverError,
    add,
    check_name,
    existing,
    extra_files,
    target_in,
    write,
)

_log = logging.getLogger(__name__)

BUILT_IN_HANDLERS = frozenset(
    {
        "base_handler",
        "text_classifier",
        "image_classifier",
        "object_detector",
        "image_segmenter",
        "dali_image_classifier",
        "vllm_handler",
        "trt_llm_handler",
    }
)
_BUILT_IN_LSP_HANDLERS = frozenset({"BaseHandler", "TorchScriptHandler"})


class RuntimeType(Enum):
    """What a handler is written for."""

    PYTHON = "python"
    PYTHON3 = "python3"
    LSP = "LSP"


@dataclass
class ModelArchiverConfig:
    """What one archive is made of; the fields are the command's flags.

    Attributes:
        model_name: The model's name and the artefact's.
        handler: A built-in handler, or a Python file, optionally followed by `:function`.
        version: The model's version.
        serialized_file: Weights or a program.
        model_file: A Python file with the model's class.
        extra_files: More files, directories and patterns, separated by commas.
        runtime: `python`, `python3` or `LSP`.
        export_path: The directory that the artefact is written to.
        archive_format: `default`, `zip-store`, `tgz` or `no-archive`.
        force: Overwrite an artefact that is there.
        requirements_file: pip's requirements.
        config_file: The model's YAML.
    """

    model_name: str
    handler: str
    version: str
    serialized_file: str | None = None
    model_file: str | None = None
    extra_files: str | None = None
    runtime: str = RuntimeType.PYTHON.value
    export_path: str = field(default_factory=os.getcwd)
    archive_format: str = ArchiveFormat.DEFAULT.value
    force: bool = False
    requirements_file: str | None = None
    config_file: str | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> ModelArchiverConfig:
        """The flags as argparse read them."""
        return cls(**{spec.name: getattr(args, spec.name) for spec in fields(cls)})


def archive_model(
    config: ModelArchiverConfig, *, manifest: str | None = None, digests: bool = False
) -> Path:
    """Make one archive.

    Args:
        config: What goes in.
        manifest: The manifest's text; None writes the one that `config` asks for.
        digests: List every file's SHA-256 in it, which torch-model-archiver does not.

    Returns:
        The artefact.

    Raises:
        ModelArchiverError: A name or path that cannot be used, or an artefact that exists.
        FileNotFoundError: A file that should go in is not there.
        OSError: Something cannot be read or written.
    """
    check_name(config.model_name, what="Model")
    archive_format = ArchiveFormat(config.archive_format)
    name = config.model_name + archive_format.suffix
    target = target_in(config.export_path, name, force=config.force)
    text = manifest_of(config).to_json() if manifest is None else manifest
    files: dict[str, Path | bytes] = dict(sorted(files_of(config, target=target).items()))
    files[MANIFEST_PATH] = text.encode()
    if digests:
        files[FILES_PATH] = list_of_sources(files)
    write(target, files, archive_format, top=config.model_name)
    _log.info("model %s is in %s", config.model_name, target)
    return target


def manifest_of(config: ModelArchiverConfig) -> Manifest:
    """What the archive will say about itself.

    Raises:
        ValueError: The runtime is unknown.
    """
    return Manifest(
        model_name=config.model_name,
        model_version=config.version,
        handler=_basename(config.handler),
        serialized_file=_basename(config.serialized_file),
        model_file=_basename(config.model_file),
        requirements_file=_basename(config.requirements_file),
        config_file=_basename(config.config_file),
        runtime=RuntimeType(config.runtime).value,
        created_on=created_on(),
        archiver_version=f"flambeau {flambeau.__version__}",
    )


def files_of(config: ModelArchiverConfig, *, target: Path) -> Files:
    """The files that go in, by their names in the archive; the manifest is not among them.

    Raises:
        FileNotFoundError: One of them is not there.
    """
    files: Files = {}
    for path in (
        config.model_file,
        config.serialized_file,
        handler_file(config.handler, runtime=config.runtime),
    ):
        if path:
            add(files, Path(path).name, existing(path))
    for name, source in extra_files(config.extra_files, without=target).items():
        add(files, name, source)
    for path in (config.requirements_file, config.config_file):
        if path:
            add(files, Path(path).name, existing(path))
    return files


def handler_file(handler: str, *, runtime: str) -> str | None:
    """The file that a handler is in: `mine`, `mine.py` and `mine.py:entry` are all in `mine.py`."""
    path = handler.partition(":")[0]
    if runtime == RuntimeType.LSP.value:
        suffix = ".dylib" if sys.platform == "darwin" else ".so"
        if handler in _BUILT_IN_LSP_HANDLERS:
            return None
    else:
        suffix = ".py"
        if handler in BUILT_IN_HANDLERS:
            return None
    return path if path.endswith(suffix) else path + suffix


def created_on() -> str:
    """Now, as manifests tell it."""
    return datetime.now().astimezone().strftime("%d/%m/%Y %H:%M:%S")


def configure(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add the flags of `torch-model-archiver`.

    Args:
        parser: Where they go.
        required: Let the parser refuse to do without those that are needed; otherwise `run` does.
    """
    parser.set_defaults(run=partial(run, parser=parser))
    add_flag = parser.add_argument
    add_flag("--model-name", required=required, help="the model's name and the archive's")
    add_flag("-v", "--version", required=required, help="the model's version")
    add_flag(
        "--handler",
        required=required,
        help="a built-in handler, or a Python file, optionally FILE:FUNCTION",
    )
    add_flag("--serialized-file", help="weights or a program, e.g. a .pt or .onnx file")
    add_flag("--model-file", help="a Python file with the class of an eager model")
    add_flag("--extra-files", help="more files, directories and patterns, separated by commas")
    add_flag(
        "--runtime",
        choices=[runtime.value for runtime in RuntimeType],
        default=RuntimeType.PYTHON.value,
        help="what the handler is written for (default: %(default)s)",
    )
    add_flag("--export-path", help="where the archive is written (default: here)")
    add_flag(
        "--archive-format",
        choices=[known.value for known in ArchiveFormat],
        default=ArchiveFormat.DEFAULT.value,
        help="how the archive is packed (default: a deflated .mar)",
    )
    add_flag("-f", "--force", action="store_true", help="overwrite an archive that is there")
    add_flag("-r", "--requirements-file", help="pip requirements of the model")
    add_flag("-c", "--config-file", help="the model's YAML, e.g. with batchSize")
    if not required:
        add_flag(
            "--digests",
            action="store_true",
            help="list the SHA-256 of every file, which servers hold the archive against",
        )


def run(args: argparse.Namespace, *, parser: argparse.ArgumentParser) -> int:
    """Make the archive that the flags ask for; returns the exit code."""
    needed = {"--model-name": args.model_name, "--handler": args.handler, "--version": args.version}
    if missing := [flag for flag, value in needed.items() if value is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    logging.basicConfig(format="%(levelname)s - %(message)s", stream=sys.stderr)
    try:
        archive_model(config_of(args), digests=getattr(args, "digests", False))
    except (ModelArchiverError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


def config_of(args: argparse.Namespace) -> ModelArchiverConfig:
    """The flags as a config; the export path defaults to the working directory."""
    args.export_path = args.export_path or str(Path.cwd())
    return ModelArchiverConfig.from_args(args)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `torch-model-archiver`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="torch-model-archiver", description="Put a model's files into an archive."
    )
    configure(parser)
    return run(parser.parse_args(arguments), parser=parser)


def _basename(path: str | None) -> str | None:
    return Path(path).name if path else None


if __name__ == "__main__":
    sys.exit(main())
