"""What goes into an archive beside the program: handler, labels, settings, further files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flambeau.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_HANDLER = "base_handler"
DEFAULT_BATCH_SIZE = 16  # a limit that costs nothing: the server waits for no batch to fill
CONFIG_FILE = "model-config.yaml"
LABELS_FILE = "index_to_name.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_COMPARED = 64
_LEFT_OUT = ("__pycache__", "__MACOSX")


def check_name(value: str, *, what: str) -> None:
    """Names and versions become file names, URL parts and metric labels.

    Raises:
        ExportError: It has other characters than those, or too many.
    """
    if not _NAME.fullmatch(value):
        raise ExportError(
            f"{what} {value!r} is not usable; start with a letter or digit, go on with letters, "
            "digits, '.', '_' or '-', at most 128 in all"
        )


def archive_path(path: Path, *, name: str, version: str) -> Path:
    """Where the archive goes: `path` if it ends in `.mar`, else `<name>-<version>.mar` below it."""
    return path if path.suffix == ".mar" else path / f"{name}-{version}.mar"


def full_batch(model_config: Mapping[str, Any] | None) -> int:
    """The batch size that programs are compared at: the settings' own, up to 64."""
    stated = (model_config or {}).get("batchSize", DEFAULT_BATCH_SIZE)
    is_size = isinstance(stated, int) and stated >= 1
    return min(stated, _MAX_COMPARED) if is_size else DEFAULT_BATCH_SIZE


def payload(
    *,
    handler: str | Path,
    classes: Sequence[str] | None,
    extra_files: Sequence[str | Path],
    model_config: Mapping[str, Any] | None,
    extra_content: Mapping[str, bytes] | None = None,
) -> tuple[str, dict[str, Path | bytes]]:
    """The files at the archive's root, without the program.

    Args:
        handler: A built-in handler's name, or a Python file, `:function` after it or not.
        classes: Labels in the order of the model's classes.
        extra_files: Files, which go to the root, and directories, whose content does.
        model_config: The model's settings; a built-in handler, which answers batches, gets
            `batchSize` from us when they name none.
        extra_content: More files for the root, by name.

    Returns:
        The handler as the manifest names it, and content by name in the archive.

    Raises:
        ExportError: A file is missing, two would have the same name, or settings are not plain.
    """
    files: dict[str, Path | bytes] = {}
    handler_name, handler_file = _handler(str(handler))
    if handler_file is not None:
        _put(files, handler_file.name, handler_file)
    else:
        model_config = {"batchSize": DEFAULT_BATCH_SIZE, **(model_config or {})}
    if classes is not None:
        labels = {str(index): label for index, label in enumerate(classes)}
        text = json.dumps(labels, indent=2, ensure_ascii=False) + "\n"
        _put(files, LABELS_FILE, text.encode())
    if model_config:
        _put(files, CONFIG_FILE, _yaml(model_config))
    for extra in map(Path, extra_files):
        for name, path in _files_of(extra):
            _put(files, name, path)
    for name, content in (extra_content or {}).items():
        _put(files, name, content)
    return handler_name, files


def _handler(handler: str) -> tuple[str, Path | None]:
    """`dir/mine.py:infer` is `mine:infer` in the manifest, `dir/mine.py` is `mine.py`."""
    file_name, colon, function = handler.partition(":")
    if not file_name.endswith(".py"):
        if "/" in file_name:
            raise ExportError(f"handler {handler!r} is a path, but not of a .py file; add the .py")
        return handler, None
    path = Path(file_name)
    if not path.is_file():
        raise ExportError(f"handler {file_name} does not exist; give the path of a Python file")
    return (f"{path.stem}:{function}" if colon else path.name), path


def _files_of(extra: Path) -> list[tuple[str, Path]]:
    if extra.is_file():
        return [(extra.name, extra)]
    if not extra.is_dir():
        raise ExportError(f"extra file {extra} does not exist; correct its path")
    found: list[tuple[str, Path]] = []
    for directory, directories, names in os.walk(extra):
        kept = [name for name in directories if name not in _LEFT_OUT and name[0] != "."]
        directories[:] = sorted(kept)
        paths = [Path(directory, name) for name in sorted(names)]
        found += [(path.relative_to(extra).as_posix(), path) for path in paths]
    return found


def _put(files: dict[str, Path | bytes], name: str, source: Path | bytes) -> None:
    if name in files:
        raise ExportError(f"two files would be {name!r} in the archive; rename or drop one")
    files[name] = source


def _yaml(model_config: Mapping[str, Any]) -> bytes:
    try:
        text = yaml.safe_dump(dict(model_config), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(
            f"model_config is not plain data ({reason}); use dicts, lists, text, numbers"
        ) from error
    return text.encode()
