"""What an export can be asked for, as far as it is a choice of words; no torch."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from flambeau.errors import ExportError

Choice = TypeVar("Choice", bound=Enum)


class Target(str, Enum):
    """What kind of program an archive holds; `program.py` has one class for each."""

    TORCHSCRIPT = "torchscript"
    TORCH_EXPORT = "torch_export"
    AOT_INDUCTOR = "aot_inductor"
    ONNX = "onnx"


class Precision(str, Enum):
    """How many bits a program computes with; `precision.py` says what becomes of a model."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


class Method(str, Enum):
    """How TorchScript is made: by recording one run, or by compiling the source."""

    TRACE = "trace"
    SCRIPT = "script"


def chosen(kind: type[Choice], value: str) -> Choice:
    """The member of `kind` that has this value.

    Raises:
        ExportError: There is none; the message names those there are.
    """
    for member in kind:
        if member.value == value:
            return member
    supported = ", ".join(str(member.value) for member in kind)
    raise ExportError(
        f"{kind.__name__.lower()} {value!r} is not supported; use one of: {supported}"
    )
