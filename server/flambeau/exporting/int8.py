"""A model in 8 bits, for the kernels that PyTorch has on CPUs.

Weights get a scale for each output channel, activations one for the whole tensor, from the ranges
that calibration inputs show. So a scale is a constant, and a sample's answer does not depend on its
batch. Layers that have no such kernel, e.g. embeddings and norms, stay in float32.

This is the only place that calls `torch.ao.quantization`, which PyTorch 2.13 has and deprecates.
Its successor torchao is no match yet: its programs are loaded only where torchao is installed, and
run slower than float32 on CPUs without VNNI.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from flambeau.errors import ExportError

_ROWS: Final = 64  # of one calibration batch


class Quantized(torch.nn.Module):
    """A quantised model; it becomes TorchScript, and nothing else."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401  # the model's
        return self.model(*inputs)


def quantized(model: torch.nn.Module, calibration: Sequence[torch.Tensor]) -> Quantized:
    """A copy of the model that computes in int8 where it can.

    Args:
        model: On the CPU, in evaluation mode.
        calibration: Inputs, (N, ...) each, as the model will get them.

    Raises:
        ExportError: The model is on another device, or cannot be followed by `torch.fx`.
    """
    if calibration[0].device.type != "cpu":
        raise ExportError("int8 programs run on CPUs; move the model there (model.cpu())")
    with quietly(), torch.no_grad():
        # by name, as type checkers refuse what is deprecated; they take seconds to import
        mapping: Any = importlib.import_module("torch.ao.quantization.qconfig_mapping")
        fx: Any = importlib.import_module("torch.ao.quantization.quantize_fx")
        examples = tuple(calibration)
        try:
            config = mapping.get_default_qconfig_mapping("x86")
            prepared = fx.prepare_fx(copy.deepcopy(model), config, examples)
            for begin in range(0, len(examples[0]), _ROWS):
                prepared(*(each[begin : begin + _ROWS] for each in examples))
            return Quantized(fx.convert_fx(prepared)).eval()
        except Exception as error:  # the model's code runs here and may raise anything
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"the model cannot be quantised: {type(error).__name__}: {reason}. forward() must "
                "not branch on values; leave int8 out, or use bf16"
            ) from error


@contextmanager
def quietly() -> Generator[None]:
    """Without the warnings that PyTorch's parts raise about one another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
