"""What a model takes and gives: example inputs checked, and the signature they show."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from flambeau.errors import ExportError
from flambeau.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

DTYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    }
)


def checked_inputs(given: object, *, what: str) -> tuple[torch.Tensor, ...]:
    """One or several inputs as a tuple of tensors (N, ...) with the same N of 1 or more.

    Args:
        given: The model's positional arguments.
        what: What messages call them.

    Raises:
        ExportError: They are not such tensors.
    """
    items: list[object] = list(given) if isinstance(given, (tuple, list)) else [given]
    tensors = tuple(item for item in items if isinstance(item, torch.Tensor))
    if not items or len(tensors) < len(items):
        kinds = [type(item).__name__ for item in items]
        raise ExportError(f"{what} are {kinds}; give a tensor, or a tuple of tensors")
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            raise ExportError(f"{what} have dtype {tensor.dtype}, which archives cannot describe")
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors}
    if len(sizes) != 1 or 0 in sizes:
        shapes = [list(tensor.shape) for tensor in tensors]
        raise ExportError(
            f"{what} have shapes {shapes}; the first dimension is the batch, the same for all and "
            "1 or more (add it with x.unsqueeze(0))"
        )
    return tensors


def check_alike(samples: Sequence[torch.Tensor], examples: Sequence[torch.Tensor]) -> None:
    """Samples must be what the examples are, but for their number.

    Raises:
        ExportError: They differ in number of inputs, dtype or the shape of one sample.
    """
    shown = [
        [(str(tensor.dtype), list(tensor.shape[1:])) for tensor in tensors]
        for tensors in (samples, examples)
    ]
    if shown[0] != shown[1]:
        raise ExportError(f"samples are {shown[0]} each, but example inputs are {shown[1]}")


def signature_of(
    model: torch.nn.Module, inputs: Sequence[torch.Tensor], outputs: Mapping[str, torch.Tensor]
) -> Signature:
    """The names, dtypes and shapes of one run, its batch left open.

    Raises:
        ExportError: An output has no batch dimension, or a dtype that archives cannot describe.
    """
    num_rows = len(inputs[0])
    for name, tensor in outputs.items():
        if tensor.ndim == 0 or len(tensor) != num_rows:
            raise ExportError(
                f"{name} has shape {list(tensor.shape)} for a batch of {num_rows}; the first "
                "dimension of each output must be the batch, so that it can be split per request"
            )
        if tensor.dtype not in DTYPES:
            raise ExportError(f"{name} has dtype {tensor.dtype}, which archives cannot describe")
    names = _input_names(model, count=len(inputs))
    return Signature(
        inputs=tuple(_spec(name, tensor) for name, tensor in zip(names, inputs, strict=True)),
        outputs=tuple(_spec(name, tensor) for name, tensor in outputs.items()),
    )


def check_classes(classes: Sequence[str] | None, outputs: Mapping[str, torch.Tensor]) -> None:
    """A first output of shape (B, C) with C of 2 or more must have one column per label.

    Raises:
        ExportError: It has another number of columns.
    """
    name, scores = next(iter(outputs.items()))
    if classes is None or scores.ndim != 2 or scores.shape[1] in {1, len(classes)}:
        return
    raise ExportError(
        f"classes names {len(classes)} labels, but {name} has {scores.shape[1]} columns; "
        "give one label per class, in the order of training"
    )


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(name=name, dtype=dtype, shape=(None, *tensor.shape[1:]))


def _input_names(model: torch.nn.Module, *, count: int) -> list[str]:
    """The first names of forward's arguments; `input_0`, ... where it takes `*args`."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in positional]
    return [*names, *(f"input_{index}" for index in range(len(names), count))][:count]
