"""A model as ONNX: `model.onnx`, which onnxruntime runs, here or in another server."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from flambeau.errors import ExportError
from flambeau.exporting.program_exported import exported_program, refusing
from flambeau.weights import onnx_session

if TYPE_CHECKING:
    from pathlib import Path

    from flambeau.exporting.dims import Axes

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class OnnxFormat:
    """The `ProgramFormat` of ONNX."""

    file_name: ClassVar[str] = "model.onnx"

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
        if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
            raise ExportError(
                f"target onnx needs {', '.join(missing)}; pip install 'flambeau[onnx]'"
            )
        program = exported_program(model, example_inputs, axes=axes)
        with refusing("exported to ONNX"):
            torch.onnx.export(
                program, (), str(path), dynamo=True, external_data=False, verbose=False
            )

    def load(self, path: Path, *, device: torch.device) -> Callable[..., object]:
        return onnx_session.load(path, device=device)
