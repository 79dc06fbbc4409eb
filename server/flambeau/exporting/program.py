"""What kinds of program an archive can hold: one file for each, behind `ProgramFormat`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from flambeau.exporting.options import Method, Target
from flambeau.exporting.program_torchscript import TorchScriptFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch


class ProgramFormat(Protocol):
    """How a model becomes a file, and that file a callable again.

    Attributes:
        file_name: The file's name in the archive; handlers tell formats apart by its suffix.
        frozen_batch_hint: What to do when the program turns out to know one batch size only.
    """

    file_name: ClassVar[str]

    @property
    def frozen_batch_hint(self) -> str: ...

    def save(
        self, model: torch.nn.Module, example_inputs: Sequence[torch.Tensor], path: Path
    ) -> None:
        """Write the program of a model that is in evaluation mode.

        Raises:
            ExportError: The model cannot be expressed in this format.
        """
        ...

    def load(self, path: Path, *, device: torch.device) -> Callable[..., object]:
        """Read the program back, as a server would.

        Raises:
            ArchiveError: The file is not such a program.
        """
        ...


def program_format(target: Target, *, method: Method) -> ProgramFormat:
    match target:
        case Target.TORCHSCRIPT:
            return TorchScriptFormat(method)
