"""A model as a program of `torch.export`, which runs anywhere, or compiled for this machine.

Both are `model.pt2`; the server tells them apart. Open in them are the batch and named dimensions.
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

import torch

from flambeau.errors import ExportError
from flambeau.exporting.dims import BATCH, Axes, resized
from flambeau.weights import exported

# loops ask for the number of threads each time, so that a server's setting holds for them
_SETTINGS: Final[dict[str, Any]] = {"cpp.dynamic_threads": True}
_MIN_SIZE = 2  # torch.export takes 1 for a fixed size


class TorchExportFormat:
    """The `ProgramFormat` of `torch.export`."""

    file_name: ClassVar[str] = "model.pt2"

    @property
    def frozen_batch_hint(self) -> str:
        return "make forward() follow the size of its input"

    def save(
        self,
        model: torch.nn.Module,
        example_inputs: Sequence[torch.Tensor],
        path: Path,
        *,
        axes: Axes = (),
    ) -> None:
        program = exported_program(model, example_inputs, axes=axes)
        with refusing("written"):
            torch.export.save(program, path)

    def load(self, path: Path, *, device: torch.device) -> Callable[..., object]:
        return exported.load(path, device=device)


class AotInductorFormat(TorchExportFormat):
    """The `ProgramFormat` of AOTInductor: machine code for the device the model is on."""

    def save(
        self,
        model: torch.nn.Module,
        example_inputs: Sequence[torch.Tensor],
        path: Path,
        *,
        axes: Axes = (),
    ) -> None:
        program = exported_program(model, example_inputs, axes=axes)
        with refusing("compiled"), torch.no_grad():
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001  # as documented
                program, package_path=str(path), inductor_configs=_SETTINGS
            )


def exported_program(
    model: torch.nn.Module, example_inputs: Sequence[torch.Tensor], *, axes: Axes = ()
) -> Any:  # noqa: ANN401  # torch's class
    """What the model computes, for batches of any size.

    Args:
        model: In evaluation mode.
        example_inputs: Its arguments, with the batch first.
        axes: The open axes of each input beside the batch; empty for none.

    Raises:
        ExportError: forward() does what such a program cannot; the message shows the line.
    """
    axes = axes or [{} for _ in example_inputs]
    inputs = two_of_each(example_inputs, axes)
    shapes = open_sizes(model, axes)
    with refusing("exported"), torch.no_grad():
        return torch.export.export(model, inputs, dynamic_shapes=shapes)


def two_of_each(inputs: Sequence[torch.Tensor], axes: Axes) -> tuple[torch.Tensor, ...]:
    """The inputs, repeated where an open size is 1, in memory of their own."""
    dims = {
        dim.name: tensor.shape[axis]
        for tensor, open_axes in zip(inputs, axes, strict=True)
        for axis, dim in open_axes.items()
    }
    sizes = {BATCH: len(inputs[0]), **dims}
    return resized(
        [each.detach() for each in inputs],
        axes,
        {name: max(_MIN_SIZE, size) for name, size in sizes.items()},
    )


def open_sizes(model: torch.nn.Module, axes: Axes) -> tuple[object, ...]:
    """What `torch.export` calls dynamic shapes: open axes by input, the same batch for all."""
    batch = torch.export.Dim(BATCH)
    dims = {
        dim.name: torch.export.Dim(dim.name, min=dim.min, max=dim.max)
        for open_axes in axes
        for dim in open_axes.values()
    }
    sizes = [
        {0: batch, **{axis: dims[dim.name] for axis, dim in open_axes.items()}}
        for open_axes in axes
    ]
    parameters = inspect.signature(model.forward).parameters.values()
    num_named = sum(each.kind is not inspect.Parameter.VAR_POSITIONAL for each in parameters)
    rest = sizes[num_named:]  # what `*args` takes is one tuple
    return (*sizes[:num_named], tuple(rest)) if rest else tuple(sizes)


@contextmanager
def refusing(what: str) -> Generator[None]:
    """Tell any failure of PyTorch's compilers as our own error, with the model's line if known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's parts, about one another
        try:
            yield
        except Exception as error:  # the model's code runs here and may raise anything
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"the model cannot be {what}: {type(error).__name__}: {reason}{_where(error)}. "
                "Branches on values need torch.cond or torch.where; target 'torchscript' takes "
                "more kinds of model"
            ) from error


def _where(error: BaseException) -> str:
    """The last line of somebody else's than PyTorch's and ours that led to an error."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(own) and Path(frame.filename).is_file()
    ]
    if not frames:
        return ""
    return f" ({frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line})"
