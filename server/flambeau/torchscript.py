"""TorchScript, and the only place that calls `torch.jit`.

PyTorch 2.13 deprecates `torch.jit` but TorchServe's archives hold its programs, so they are made
and loaded here, without the deprecation warnings that no user of ours can act on.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flambeau.errors import ArchiveError, ExportError

if TYPE_CHECKING:
    from typing import TypeGuard


def trace(model: torch.nn.Module, example_inputs: Sequence[torch.Tensor]) -> torch.jit.ScriptModule:
    """Record the operations that `model` runs on these inputs.

    Python branches and sizes are frozen as they were, hence the exporter's proof at other batch
    sizes; PyTorch's own `TracerWarning` about them reaches the caller.

    Raises:
        ExportError: The model raised, or holds something the tracer cannot record.
    """
    with _quiet(), torch.no_grad(), _refusing("traced"):
        # The exporter compares the reloaded program with the model, so no second trace is needed.
        # `strict=False` allows lists and dicts as outputs; their structure is compared as well.
        program = torch.jit.trace(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            model, tuple(example_inputs), check_trace=False, strict=False
        )
    assert isinstance(program, torch.jit.ScriptModule)
    return program


def script(model: torch.nn.Module) -> torch.jit.ScriptModule:
    """Compile the source of `model.forward`, branches and loops included.

    Raises:
        ExportError: The source is outside the TorchScript language.
    """
    with _quiet(), _refusing("scripted"):
        return torch.jit.script(model)


def save(program: torch.jit.ScriptModule, path: Path) -> None:
    """Write a program to one file, usually `model.pt`."""
    with _quiet():
        torch.jit.save(program, str(path))


def load(path: Path, *, device: torch.device | str) -> torch.jit.ScriptModule:
    """Read a program and put its weights on `device`; it is in evaluation mode.

    Raises:
        ArchiveError: No such file, or not a complete TorchScript program.
    """
    if not path.is_file():
        raise ArchiveError(f"{path} does not exist; export the model again")
    try:
        with _quiet():
            program = torch.jit.load(  # type: ignore[no-untyped-call]  # torch leaves it untyped
                str(path), map_location=torch.device(device)
            )
    except torch.OutOfMemoryError:
        raise  # the file is sound, the device is full
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ArchiveError(
            f"{path} is not a TorchScript program, or is damaged ({reason}); export the model again"
        ) from error
    assert isinstance(program, torch.jit.ScriptModule)
    program.eval()
    return program


def frozen(program: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The program with its weights as constants, and batch norms folded into convolutions.

    The program stays as it is; folded weights are copies.

    Raises:
        RuntimeError: It cannot be frozen, e.g. as it is frozen already.
    """
    with _quiet():
        result: torch.jit.ScriptModule = torch.jit.freeze(program)
    return result


def fused(program: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A frozen program in the kernels and layouts of the vendor's library, e.g. oneDNN's.

    Raises:
        RuntimeError: It is not frozen, or has a form that PyTorch does not convert.
    """
    with _quiet():
        result: torch.jit.ScriptModule = torch.jit.optimize_for_inference(program)
    return result


def to_module(
    program: torch.jit.ScriptModule, example_inputs: tuple[torch.Tensor, ...]
) -> torch.nn.Module:
    """The program as a module that `torch.export` takes, with the same weights.

    Raises:
        Exception: PyTorch's converter does not know an operation, or a form of control flow.
    """
    from torch._export.converter import TS2EPConverter  # noqa: PLC0415  # takes a second

    with _quiet(), torch.no_grad():
        return TS2EPConverter(program, example_inputs).convert().module()


def is_program(model: object) -> TypeGuard[torch.jit.ScriptModule]:
    """Whether this is what `trace`, `script` and `load` give."""
    return isinstance(model, torch.jit.ScriptModule)


@contextmanager
def _quiet() -> Generator[None]:
    """Drop the deprecation warnings of `torch.jit` itself, and no others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


@contextmanager
def _refusing(what: str) -> Generator[None]:
    """Tell any failure of the compiler, or of the model in it, as our own error."""
    try:
        yield
    except Exception as error:  # the model's code runs here and may raise anything
        raise ExportError(
            f"the model cannot be {what}: {type(error).__name__}: {str(error).strip()}"
        ) from error
