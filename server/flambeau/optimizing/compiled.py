"""A model compiled to machine code by AOTInductor, for batches like the ones it is served with.

The compiler writes a shared library that holds the weights, too. Its code believes what it is
told: given another shape, it reads beyond the end. So a `CompiledModel` looks at what it is given
and lets the model itself answer whatever the library was not made for.

Weights become constants of the library and its OpenMP loops ask for the number of threads each
time, so that `torch.set_num_threads` holds for them, and one thread starts no others.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import torch
from torch.utils import _pytree as pytree

from flambeau import torchscript
from flambeau.errors import HandlerFailed
from flambeau.optimizing.fit import Fit

_HINT: Final = 7
"""The batch size that code is tuned for, if batches may be larger: no layer has such a size."""

_SETTINGS: Final[dict[str, Any]] = {
    "freezing": True,
    "max_autotune_gemm": True,  # products of small matrices without the library's overhead
    "cpp.dynamic_threads": True,
    "aot_inductor.embed_kernel_binary": True,  # CUDA: all in one file
}


class CompiledModel:
    """Runs a library, or the model where that does not fit."""

    def __init__(
        self,
        runner: Any,  # noqa: ANN401  # torch has no common class of them
        model: Any,  # noqa: ANN401  # any callable
        *,
        examples: Sequence[torch.Tensor],
        max_batch_size: int,
    ) -> None:
        """Call the library for inputs like the examples.

        Args:
            runner: The library, loaded.
            model: What it was made of.
            examples: Inputs; only their number, types, devices and sizes after the first count.
            max_batch_size: The size up to which the library was made for.
        """
        self._run = runner.run
        self._model = model
        self._fit = Fit(examples, max_batch_size=max_batch_size)
        spec = pytree.treespec_loads(runner.get_call_spec()[1])
        self._spec = None if spec == pytree.tree_structure(examples[0]) else spec

    def __call__(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401  # the model's
        """The model's outputs."""
        if named or not self._fit.batch_size_of(inputs):
            return self._model(*inputs, **named)
        outputs = self._run([tensor.contiguous() for tensor in inputs])
        return outputs[0] if self._spec is None else pytree.tree_unflatten(outputs, self._spec)


def load(
    path: Path,
    model: Any,  # noqa: ANN401  # any callable
    *,
    examples: Sequence[torch.Tensor],
    max_batch_size: int,
) -> CompiledModel:
    """Load a library that `compile_model` has written.

    Raises:
        RuntimeError: It is none of this machine and PyTorch.
    """
    device = examples[0].device
    native: Any = torch._C  # noqa: SLF001  # what torch._export.aot_load calls
    if device.type == "cuda":
        runner = native._aoti.AOTIModelContainerRunnerCuda(str(path), 1, str(device))  # noqa: SLF001
    else:
        runner = native._aoti.AOTIModelContainerRunnerCpu(str(path), 1)  # noqa: SLF001
    return CompiledModel(runner, model, examples=examples, max_batch_size=max_batch_size)


def compile_model(
    model: Any,  # noqa: ANN401  # whatever a handler loaded
    path: Path,
    *,
    examples: Sequence[torch.Tensor],
    max_batch_size: int,
    is_narrow: bool = False,
) -> None:
    """Write a library for batches of 1 to `max_batch_size` samples; takes tens of seconds.

    Args:
        model: A TorchScript program, or a module that `torch.export` takes.
        path: Where the library goes.
        examples: A batch of each input, of `example_size(max_batch_size)`.
        max_batch_size: 1 or more.
        is_narrow: Whether to compute in bfloat16 where PyTorch thinks that safe.

    Raises:
        HandlerFailed: The model has a form that is not compiled.
        Exception: Whatever PyTorch or the C++ compiler raises.
    """
    # storage of their own: sizes of the tensors they were cut from must not become part of the code
    inputs = tuple(each.detach().contiguous().clone() for each in examples)
    module = torchscript.to_module(model, inputs) if torchscript.is_program(model) else model
    if not isinstance(module, torch.nn.Module):
        raise HandlerFailed(f"a {type(model).__name__} is not compiled")
    if is_narrow:
        module = _Narrow(module, device_type=inputs[0].device.type)
    with torch.no_grad():
        shapes = _shapes(inputs, max_batch_size)
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
        expected = pytree.tree_structure(model(*inputs))
        if program.call_spec.out_spec != expected:
            raise HandlerFailed("its outputs would be put together in another way")
        package = path.with_suffix(".pt2")
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001  # as documented
            program, package_path=str(package), inductor_configs=_SETTINGS
        )
    path.write_bytes(_library_in(package))
    package.unlink()


def example_size(max_batch_size: int) -> int:
    """How many samples the examples for `compile_model` need."""
    return min(max_batch_size, _HINT)


def _shapes(inputs: Sequence[torch.Tensor], max_batch_size: int) -> Any:  # noqa: ANN401  # torch's
    """Which sizes may differ from the examples: the first, unless batches are of one sample."""
    if max_batch_size == 1:
        return None
    batch = torch.export.Dim("batch", min=1, max=max_batch_size)
    return tuple({0: batch} for _ in inputs)


def _library_in(package: Path) -> bytes:
    with zipfile.ZipFile(package) as file:
        names = [name for name in file.namelist() if PurePosixPath(name).suffix == ".so"]
        if len(names) != 1:
            raise HandlerFailed(f"it compiles to {len(names)} libraries instead of one")
        return file.read(names[0])


class _Narrow(torch.nn.Module):
    """A module under autocast, as `torch.export` takes it."""

    def __init__(self, module: torch.nn.Module, *, device_type: str) -> None:
        super().__init__()
        self.module = module
        self._device_type = device_type

    def forward(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401  # the module's
        with torch.autocast(self._device_type, dtype=torch.bfloat16):
            outputs = self.module(*inputs)
        return pytree.tree_map_only(torch.Tensor, _widened, outputs)


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype is torch.bfloat16 else tensor
