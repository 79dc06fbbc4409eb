"""What `torch.export` and AOTInductor write.

A `.pt2` file holds either a program, which PyTorch runs, or a package, which is compiled for one
kind of device. Packages and `.so` files are native code for the machine they were made on.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from flambeau.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

Program: TypeAlias = Callable[..., Any]
"""Takes the exported model's inputs, gives its outputs."""

_COMPILED = "/data/aotinductor/"  # a folder of packages only


def load(path: Path, *, device: torch.device) -> Program:
    """Read a `.pt2` file of either kind.

    Raises:
        ArchiveError: There is no such file, or it is damaged, of another kind, or made by a PyTorch
            that this one does not understand.
        torch.OutOfMemoryError: The device is full.
    """
    with _naming(path):
        if _is_package(path):
            package: Program = torch._inductor.aoti_load_package(  # noqa: SLF001  # as documented
                str(path), device_index=_device_index(device)
            )
            return package
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass  # noqa: PLC0415  # rarely needed

            program = move_to_device_pass(program, device)
        return program.module()


def load_library(path: Path, *, device: torch.device) -> Program:
    """Read a `.so` file that `torch._export.aot_compile` made.

    Raises:
        ArchiveError: There is no such file, or it is none of this PyTorch and machine.
    """
    with _naming(path):
        from torch._export import aot_load  # noqa: PLC0415  # rarely needed

        library: Program = aot_load(str(path), str(device))
        return library


def _is_package(path: Path) -> bool:
    with zipfile.ZipFile(path) as file:
        return any(_COMPILED in f"/{name}" for name in file.namelist())


def _device_index(device: torch.device) -> int:
    """-1 leaves a package on the device it was made for."""
    _, _, number = str(device).partition(":")
    return int(number or -1)


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # reading runs through many parts of PyTorch
        reason = str(error).strip().partition("\n")[0][:200]
        raise ArchiveError(
            f"{path.name} cannot be loaded by PyTorch {torch.__version__} on this machine "
            f"({type(error).__name__}: {reason}); export or compile it again with this version"
        ) from error
