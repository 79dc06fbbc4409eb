"""A model as TorchScript: `model.pt`, which TorchServe's default handler loads too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flambeau import torchscript
from flambeau.exporting.int8 import Quantized, quietly
from flambeau.exporting.options import Method
from flambeau.exporting.precision import Reduced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from flambeau.exporting.dims import Axes


@dataclass(frozen=True, slots=True)
class TorchScriptFormat:
    """The `ProgramFormat` of TorchScript."""

    method: Method
    file_name: ClassVar[str] = "model.pt"

    @property
    def frozen_batch_hint(self) -> str:
        if self.method is Method.SCRIPT:
            return "make forward() follow the size of its input"
        return "use method='script' (--method script), or x.flatten(1) in place of fixed sizes"

    def save(
        self,
        model: torch.nn.Module,
        example_inputs: Sequence[torch.Tensor],
        path: Path,
        *,
        axes: Axes = (),  # noqa: ARG002  # these programs take what comes, and are proved
    ) -> None:
        if isinstance(model, Quantized):
            with quietly():
                program = torchscript.trace(model, example_inputs)
            torchscript.save(program, path)
        elif self.method is Method.SCRIPT and isinstance(model, Reduced):
            inside = model.around(torchscript.script(model.model))
            torchscript.save(torchscript.trace(inside, example_inputs), path)
        elif self.method is Method.SCRIPT:
            torchscript.save(torchscript.script(model), path)
        else:
            torchscript.save(torchscript.trace(model, example_inputs), path)

    def load(self, path: Path, *, device: torch.device) -> Callable[..., object]:
        return torchscript.load(path, device=device)
