"""Reads what `torch.distributed.checkpoint` writes: a directory of shards and `.metadata`.

PyTorch reads `.metadata` with pickle, which runs whatever a file tells it to. Here only the classes
that describe tensors may be in it, and the shards are read with `weights_only`.
"""

from __future__ import annotations

import importlib
import pickle
from enum import Enum
from pathlib import Path
from typing import Any, Final

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from flambeau.errors import ExportError

_MODULES: Final = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
)
_OTHERS: Final = frozenset(
    {
        ("collections", "OrderedDict"),
        ("pathlib", "Path"),
        ("pathlib", "PosixPath"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        *(
            ("torch", name)
            for name in (
                *("bool", "uint8", "int8", "int16", "int32", "int64"),
                *("float16", "bfloat16", "float32", "float64"),
            )
        ),
    }
)


def read(path: Path) -> dict[str, Any]:
    """All of it, put together on the CPU.

    Raises:
        ExportError: It is damaged, shards are missing, or there is more in it than tensors.
    """
    from torch.distributed.checkpoint.default_planner import (  # noqa: PLC0415
        _EmptyStateDictLoadPlanner,
    )
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict  # noqa: PLC0415

    reader = _Reader(path)
    reader.read_metadata()  # for its errors, which PyTorch would wrap
    planner = _EmptyStateDictLoadPlanner()  # type: ignore[no-untyped-call]  # torch's
    content: dict[str, Any] = {}
    try:
        _load_state_dict(content, storage_reader=reader, planner=planner, no_dist=True)
    except CheckpointException as error:
        reason = "; ".join(str(failure) for failure, _ in error.failures.values())
        raise ExportError(
            f"the shards in {path} cannot be put together ({reason}); copy the directory again, "
            "with all of its files"
        ) from error
    return content


class _Reader(FileSystemReader):
    """The files of a directory, without pickle's powers."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:  # noqa: ANN401  # the base class's
        path = Path(self.path, ".metadata")
        try:
            with path.open("rb") as file:
                metadata = _Unpickler(file).load()
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError) as error:
            raise ExportError(f"{path} cannot be read: {error}") from error
        if not isinstance(metadata, Metadata):
            raise ExportError(
                f"{path} holds {type(metadata).__name__}, not a description of shards"
            )
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _member(owner: object, name: str) -> Enum:
    """What some pickles name instead of the member of an enumeration; nothing else's attribute.

    Raises:
        UnpicklingError: It is none.
    """
    if isinstance(owner, type) and issubclass(owner, Enum) and owner.__module__ in _MODULES:
        for member in owner:
            if member.name == name:
                return member
    raise pickle.UnpicklingError(f"it names {name!r} of {owner!r}, which is no member")


class _Unpickler(pickle.Unpickler):
    """Makes descriptions of tensors, and nothing else."""

    def find_class(self, module: str, name: str, /) -> Any:  # noqa: ANN401  # pickle's signature
        if (module, name) == ("builtins", "getattr"):
            return _member
        if (module in _MODULES and "." not in name) or (module, name) in _OTHERS:
            found = getattr(importlib.import_module(module), name)
            if module not in _MODULES or isinstance(found, type):
                return found
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which no description of tensors needs"
        )
