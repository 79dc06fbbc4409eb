"""A model in 8 bits, for the kernels that PyTorch has on CPUs.

Weights get a scale for each output channel, activations one for the whole tensor, from the ranges
that calibration inputs show. So a scale is a constant, and a sample's answer does not depend on its
batch. Layers that have no such kernel, e.g. embeddings and norms, stay in float32. Where what is
between the layers cannot be in int8, e.g. a mask of truth values, only the layers are.

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
_BACKEND: Final = "x86"  # PyTorch's name for its kernels on CPUs
_LAYERS: Final = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


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
        # by name, as type checkers refuse what is deprecated; it takes seconds to import
        mappings: Any = importlib.import_module("torch.ao.quantization.qconfig_mapping")
        everything = mappings.get_default_qconfig_mapping(_BACKEND)
        only_layers = mappings.QConfigMapping()
        for kind in _LAYERS:
            only_layers.set_object_type(kind, everything.global_qconfig)
        try:
            try:
                return _converted(model, everything, tuple(calibration))
            except Exception:  # noqa: BLE001  # the model's code runs here and may raise anything
                return _converted(model, only_layers, tuple(calibration))
        except Exception as error:  # as above
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"the model cannot be quantised: {type(error).__name__}: {reason}. forward() must "
                "not branch on values; leave int8 out, or use bf16"
            ) from error


def _converted(
    model: torch.nn.Module,
    mapping: Any,  # noqa: ANN401  # as above
    examples: tuple[torch.Tensor, ...],
) -> Quantized:
    fx: Any = importlib.import_module("torch.ao.quantization.quantize_fx")
    prepared = fx.prepare_fx(copy.deepcopy(model), mapping, examples)
    for begin in range(0, len(examples[0]), _ROWS):
        prepared(*(each[begin : begin + _ROWS] for each in examples))
    return Quantized(fx.convert_fx(prepared)).eval()


@contextmanager
def quietly() -> Generator[None]:
    """Without the warnings that PyTorch's parts raise about one another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
