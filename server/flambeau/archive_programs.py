"""`MAR-INF/programs.json`: programs beside the one that the manifest names.

All compute what the served one computes, so servers that do not know the file, as TorchServe, miss
nothing but speed. A worker takes one of them when its machine can run it, and finds it faster
(`optimizing/archive_candidates.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from flambeau.errors import ArchiveError
from flambeau.signature import PROGRAMS_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MACHINE_CODE: Final = "aot_inductor"  # the target that is compiled
_FORMAT: Final = 1


class Needs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a program needs of a machine; what is empty does not matter.

    Attributes:
        device: The kind of device, `cpu` or `cuda`.
        machine: The processor's kind, e.g. `x86_64`.
        torch: Versions, as in `MAR-INF/requires.json`, e.g. `>=2.13`.
        cpu_flags: The processor's abilities that its code may use, in the kernel's words.
        capability: Of a CUDA device, e.g. `9.0`.
    """

    device: str = ""
    machine: str = ""
    torch: str = ""
    cpu_flags: list[str] = []
    capability: str = ""


class ArchiveProgram(msgspec.Struct, frozen=True, kw_only=True):
    """One program beside the served one.

    Attributes:
        file: At the archive's top; its suffix tells how it is loaded.
        target: Its kind, as `flambeau export --target` names it.
        precision: `fp32`, or fewer bits.
        sha256: Of the file.
        share: How far its outputs may be from the served program's, of the largest output; 0 means
            that its numbers are the same.
        needs: What it runs on.
    """

    file: str
    target: str
    precision: str
    sha256: str
    share: float = 0.0
    needs: Needs = Needs()

    @property
    def is_narrow(self) -> bool:
        """Whether it computes with fewer bits than float32."""
        return self.precision != "fp32"

    @property
    def is_machine_code(self) -> bool:
        """Whether it is compiled for one kind of processor, and believes its inputs."""
        return self.target == MACHINE_CODE


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    programs: list[ArchiveProgram]


def programs_json(programs: Sequence[ArchiveProgram]) -> bytes:
    """The file's content."""
    document = _Document(format=_FORMAT, programs=list(programs))
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def read_programs(model_dir: Path) -> list[ArchiveProgram]:
    """The programs of an unpacked archive that are there; none of a later format.

    Raises:
        ArchiveError: The file is not what `programs_json` writes.
    """
    path = model_dir / PROGRAMS_PATH
    if not path.is_file():
        return []
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
    except (OSError, ValueError) as error:  # msgspec's errors are of the latter
        raise ArchiveError(
            f"{PROGRAMS_PATH} lists no programs ({error}); export the model again"
        ) from error
    return document.programs if document.format == _FORMAT else []
