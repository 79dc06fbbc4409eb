"""The forms in which a model may run faster than as it was exported.

None of them touches the model itself, whose weights and attributes a handler may use; they hold
copies of what they change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import torch

from flambeau import torchscript
from flambeau.messages import OptimizeLevel
from flambeau.optimizing.graphs import CudaRecorder, GraphedModel
from flambeau.optimizing.machine import computes_bfloat16
from flambeau.optimizing.narrow import Narrow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Call: TypeAlias = Callable[..., Any]
"""Takes a model's inputs, gives its outputs."""

NARROW_SHARE: Final = 0.03  # see `optimizer.py`
AS_EXPORTED: Final = "as exported"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One form of a model.

    Attributes:
        name: What people read, and the memory of choices keeps.
        build: Makes it; raises whatever PyTorch does when the model has no such form.
        is_narrow: Whether it computes with fewer bits than the model.
        share: How far a narrow form may be from the model, of the largest output.
        differs_by_size: Whether batches of another size run other code, so that each size has to be
            compared.
        discard: Called when it computes something else, or cannot be built.
    """

    name: str
    build: Callable[[], Call]
    is_narrow: bool = False
    share: float = NARROW_SHARE
    differs_by_size: bool = False
    discard: Callable[[], None] = lambda: None


ModelInputs: TypeAlias = Callable[[int], "Sequence[torch.Tensor]"]
"""What a handler gives its model for a batch of so many samples."""


class FindCandidates(Protocol):
    """How the forms of a model are found; see `candidates_for`."""

    def __call__(
        self, model: object, *, level: OptimizeLevel, device: torch.device
    ) -> Iterable[Candidate]: ...


def candidates_for(
    model: object, *, level: OptimizeLevel, device: torch.device
) -> Iterator[Candidate]:
    """The forms there are of this model, the most promising first.

    A TorchScript program is frozen: its weights become constants, batch norms part of the
    convolutions before them. That follows from the program, whatever its inputs are. Other models
    are Python code, which only runs as it is written.

    Args:
        model: What a handler loaded.
        level: How far outputs may be from the model's own.
        device: Where the model is.
    """
    if level is OptimizeLevel.OFF:
        return
    if not torchscript.is_program(model):
        if isinstance(model, torch.nn.Module) and _has_convolution(model):
            yield Candidate(name="channels last", build=lambda: _channels_last(model))
        return
    has_images = _has_convolution(model)
    if level is OptimizeLevel.AUTO and computes_bfloat16(device):
        yield Candidate(
            name="bfloat16",
            build=lambda: Narrow(torchscript.frozen(model), device=device),
            is_narrow=True,
        )
    yield Candidate(
        name="frozen and fused", build=lambda: torchscript.fused(torchscript.frozen(model))
    )
    if has_images:
        yield Candidate(
            name="frozen, channels last",
            build=lambda: torchscript.frozen(_channels_last(model)),
        )
    yield Candidate(name="frozen", build=lambda: torchscript.frozen(model))


def graph_candidates(
    model: Call,
    inputs: ModelInputs,
    *,
    level: OptimizeLevel,
    device: torch.device,
    max_batch_size: int,
) -> Iterator[Candidate]:
    """Forms whose launches are recorded once and replayed; none but on CUDA devices.

    Args:
        model: What a handler loaded.
        inputs: Asked only when a form is built.
        level: How far outputs may be from the model's own.
        device: Where the model is.
        max_batch_size: The size of a full batch.
    """
    if level is OptimizeLevel.OFF or device.type != "cuda":
        return

    def base() -> Call:
        return torchscript.frozen(model) if torchscript.is_program(model) else model

    def graphed(call: Call) -> Call:
        return GraphedModel(
            call,
            examples=inputs(1),
            max_batch_size=max_batch_size,
            record=CudaRecorder(device),
        )

    if level is OptimizeLevel.AUTO and computes_bfloat16(device):
        yield Candidate(
            name="bfloat16, CUDA graphs",
            build=lambda: graphed(Narrow(base(), device=device)),
            is_narrow=True,
            differs_by_size=True,
        )
    yield Candidate(name="CUDA graphs", build=lambda: graphed(base()), differs_by_size=True)


def _has_convolution(model: torch.nn.Module) -> bool:
    """Whether some weight is one of a convolution over images, (O, I, H, W)."""
    return any(weight.ndim == 4 for weight in model.parameters())


def _channels_last(model: Any) -> Any:  # noqa: ANN401  # a program stays a program
    with torch.no_grad():  # else a program's copied weights are results, and torch warns of that
        return copy.deepcopy(model).to(memory_format=torch.channels_last)
