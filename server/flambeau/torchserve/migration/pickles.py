"""What a file of weights holds, learnt without unpickling it: the names its opcodes ask for."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_STRINGS: Final = {"SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "BINUNICODE8"}
_SAFE_MODULES: Final = ("torch._utils", "torch.storage", "torch._tensor")
_SAFE: Final = {
    ("collections", "OrderedDict"),
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("torch", "Size"),
    ("torch", "Tensor"),
    ("torch", "device"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.nn.parameter", "Buffer"),
    ("torch.serialization", "_get_layout"),
    ("_codecs", "encode"),
}


def is_torchscript(path: Path) -> bool:
    """Whether it is a program that `torch.jit.save` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as zipped:
        return any(name.endswith("/constants.pkl") for name in zipped.namelist())


def foreign_names(path: Path) -> list[str]:
    """The names beyond tensors and plain values that unpickling a `torch.save` file would import.

    Raises:
        ValueError: The file is neither a file of `torch.save` nor a pickle.
    """
    return sorted(
        {
            f"{module}.{name}"
            for stream in _streams(path)
            for module, name in _imports(stream)
            if not _is_safe(module, name)
        }
    )


def _streams(path: Path) -> list[bytes]:
    if not zipfile.is_zipfile(path):
        return [path.read_bytes()]
    with zipfile.ZipFile(path) as zipped:
        names = [name for name in zipped.namelist() if name.endswith("data.pkl")]
        if not names:
            raise ValueError("a zip file without data.pkl")
        return [zipped.read(name) for name in names]


def _imports(content: bytes) -> Iterator[tuple[str, str]]:
    """Module and name of each import of a pickle; of several in a row, as older files have."""
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _STRINGS:
            strings.append(str(argument))
        elif opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
            yield strings[-2], strings[-1]


def _is_safe(module: str, name: str) -> bool:
    return (
        (module, name) in _SAFE
        or module in _SAFE_MODULES
        or (module == "torch" and (name.endswith("Storage") or name.islower()))
    )
