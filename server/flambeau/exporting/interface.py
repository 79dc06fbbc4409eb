"""What a model takes and gives: example inputs checked, and the signature they show."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from flambeau.errors import ExportError
from flambeau.exporting.proof import run
from flambeau.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flambeau.exporting.dims import Axes

MAX_SAMPLES = 32
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


def used_inputs(
    model: torch.nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    samples: torch.Tensor | Sequence[torch.Tensor] | None,
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Example inputs, and the samples to record, both where the model is.

    Raises:
        ExportError: They are not what a model takes, or not alike.
    """
    examples = checked_inputs(example_inputs, what="example inputs")
    used = examples if samples is None else checked_inputs(samples, what="samples")
    check_alike(used, examples)
    weights = [*model.parameters(), *model.buffers()]
    device = weights[0].device if weights else examples[0].device
    return (
        tuple(tensor.to(device) for tensor in examples),
        tuple(tensor[:MAX_SAMPLES].to(device) for tensor in used),
    )


def calibration_inputs(
    given: torch.Tensor | Sequence[torch.Tensor], examples: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Calibration inputs, where the examples are.

    Raises:
        ExportError: They are not what the examples are.
    """
    inputs = checked_inputs(given, what="calibration inputs")
    check_alike(inputs, examples, what="calibration inputs")
    return tuple(tensor.to(examples[0].device) for tensor in inputs)


def eager_outputs(
    model: torch.nn.Module, samples: Sequence[torch.Tensor], *, what: str = "its samples"
) -> dict[str, torch.Tensor]:
    """What the model gives.

    Args:
        model: In evaluation mode.
        samples: Its inputs.
        what: What messages call them.

    Raises:
        ExportError: It fails.
    """
    try:
        return run(model, samples)
    except Exception as error:  # the model's code runs here and may raise anything
        raise ExportError(f"the model fails on {what}: {type(error).__name__}: {error}") from error


@contextmanager
def evaluating(model: torch.nn.Module) -> Generator[None]:
    """Evaluation mode for every module in it, and afterwards the mode that each had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


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


def check_alike(
    samples: Sequence[torch.Tensor], examples: Sequence[torch.Tensor], *, what: str = "samples"
) -> None:
    """Samples must be what the examples are, but for their number.

    Args:
        samples: What is held against them.
        examples: The model's inputs.
        what: What messages call samples.

    Raises:
        ExportError: They differ in number of inputs, dtype or the shape of one sample.
    """
    shown = [
        [(str(tensor.dtype), list(tensor.shape[1:])) for tensor in tensors]
        for tensors in (samples, examples)
    ]
    if shown[0] != shown[1]:
        raise ExportError(f"{what} are {shown[0]} each, but example inputs are {shown[1]}")


def signature_of(
    input_names: Sequence[str],
    inputs: Sequence[torch.Tensor],
    outputs: Mapping[str, torch.Tensor],
    *,
    axes: Axes,
    resized_outputs: Iterable[torch.Tensor] = (),
) -> Signature:
    """The names, dtypes and shapes of one run, with its open sizes left open.

    Args:
        input_names: In the model's order.
        inputs: Of the run.
        outputs: Of the run.
        axes: The open axes of each input beside the batch.
        resized_outputs: Of a run in which all of these have other sizes; empty when there are none.

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
    others = list(resized_outputs) or list(outputs.values())
    return Signature(
        inputs=tuple(
            _spec(name, tensor, set(open_axes))
            for name, tensor, open_axes in zip(input_names, inputs, axes, strict=True)
        ),
        outputs=tuple(
            _spec(name, tensor, _differing(tensor.shape, other.shape))
            for (name, tensor), other in zip(outputs.items(), others, strict=True)
        ),
    )


def _differing(shape: Sequence[int], other: Sequence[int]) -> set[int]:
    sizes = zip(shape, other, strict=False)
    return {axis for axis, (one, another) in enumerate(sizes) if one != another}


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


def _spec(name: str, tensor: torch.Tensor, open_axes: set[int]) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = [None if axis in open_axes else size for axis, size in enumerate(tensor.shape)]
    return TensorSpec(name=name, dtype=dtype, shape=(None, *shape[1:]))


def input_names(model: torch.nn.Module, *, count: int) -> list[str]:
    """The first names of forward's arguments; `input_0`, ... where it takes `*args`."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind in positional]
    return [*names, *(f"input_{index}" for index in range(len(names), count))][:count]
