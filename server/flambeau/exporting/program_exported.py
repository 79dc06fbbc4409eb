"""A model as a program of `torch.export`, which runs anywhere, or compiled for this machine.

Both are `model.pt2`; the server tells them apart. One size is open in them, the batch.
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch

from flambeau.errors import ExportError
from flambeau.weights import exported

_MIN_ROWS = 2  # with one row, torch.export takes 1 for a fixed size


class TorchExportFormat:
    """The `ProgramFormat` of `torch.export`."""

    file_name: ClassVar[str] = "model.pt2"

    @property
    def frozen_batch_hint(self) -> str:
        return "make forward() follow the size of its input"

    def save(
        self, model: torch.nn.Module, example_inputs: Sequence[torch.Tensor], path: Path
    ) -> None:
        program = exported_program(model, example_inputs)
        with refusing("written"):
            torch.export.save(program, path)

    def load(self, path: Path, *, device: torch.device) -> Callable[..., object]:
        return exported.load(path, device=device)


class AotInductorFormat(TorchExportFormat):
    """The `ProgramFormat` of AOTInductor: machine code for the device the model is on."""

    def save(
        self, model: torch.nn.Module, example_inputs: Sequence[torch.Tensor], path: Path
    ) -> None:
        program = exported_program(model, example_inputs)
        with refusing("compiled"), torch.no_grad():
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001  # as documented
                program, package_path=str(path)
            )


def exported_program(model: torch.nn.Module, example_inputs: Sequence[torch.Tensor]) -> Any:  # noqa: ANN401  # torch's class
    """What the model computes, for batches of any size.

    Raises:
        ExportError: forward() does what such a program cannot; the message shows the line.
    """
    inputs = batch_of_two(example_inputs)
    with refusing("exported"), torch.no_grad():
        return torch.export.export(model, inputs, dynamic_shapes=open_batch(model, inputs))


def batch_of_two(inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The inputs, repeated if there is one row only, in memory of their own."""
    rows = torch.arange(max(_MIN_ROWS, len(inputs[0]))) % len(inputs[0])
    return tuple(each.detach()[rows.to(each.device)].clone() for each in inputs)


def open_batch(model: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[object, ...]:
    """What `torch.export` calls dynamic shapes: the first size of every input, the same for all."""
    batch = torch.export.Dim("batch")
    sizes = [{0: batch} for _ in inputs]
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
