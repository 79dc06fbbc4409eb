"""What kinds of program an archive can hold: one file for each, behind `ProgramFormat`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from flambeau.errors import ExportError
from flambeau.exporting.options import Method, Target
from flambeau.exporting.program_exported import AotInductorFormat, TorchExportFormat
from flambeau.exporting.program_onnx import OnnxFormat
from flambeau.exporting.program_torchscript import TorchScriptFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from flambeau.exporting.dims import Axes


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
        self,
        model: torch.nn.Module,
        example_inputs: Sequence[torch.Tensor],
        path: Path,
        *,
        axes: Axes = (),
    ) -> None:
        """Write the program of a model that is in evaluation mode.

        Args:
            model: What becomes a program.
            example_inputs: Its arguments, with the batch first.
            path: The file.
            axes: The open axes of each input beside the batch; empty for none.

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


def program_format(target: Target, *, method: Method | None) -> ProgramFormat:
    """The format of a target.

    Args:
        target: The kind of program.
        method: How TorchScript is made, which has two ways; None takes the first.

    Raises:
        ExportError: A method is given for a target that has one way only.
    """
    if target is Target.TORCHSCRIPT:
        return TorchScriptFormat(method or Method.TRACE)
    if method is not None:
        raise ExportError(
            f"method {method.value!r} is a way to make TorchScript; target {target.value!r} has "
            "one way only, so leave it out"
        )
    return _FORMATS[target]()


_FORMATS: dict[Target, type[TorchExportFormat | OnnxFormat]] = {
    Target.TORCH_EXPORT: TorchExportFormat,
    Target.AOT_INDUCTOR: AotInductorFormat,
    Target.ONNX: OnnxFormat,
}
