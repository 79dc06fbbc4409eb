"""Programs that an archive has beside its served one, as further forms of its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from flambeau import torchscript
from flambeau.archive_programs import ArchiveProgram, read_programs
from flambeau.errors import HandlerFailed
from flambeau.messages import OptimizeLevel
from flambeau.optimizing.candidates import NARROW_SHARE, Call, Candidate, ModelInputs
from flambeau.optimizing.fit import Fit
from flambeau.optimizing.machine import lacking
from flambeau.weights import exported, onnx_session


class ArchiveCandidates:
    """The programs of one unpacked archive."""

    def __init__(self, model_dir: Path, *, device: torch.device, max_batch_size: int) -> None:
        """Read which there are.

        Raises:
            ArchiveError: The list is damaged.
        """
        self._model_dir = model_dir
        self._device = device
        self._max_batch_size = max_batch_size
        self._programs = read_programs(model_dir)

    def of(self, model: Call, inputs: ModelInputs, *, level: OptimizeLevel) -> Iterator[Candidate]:
        """Those that the level allows, in the archive's order.

        One that this machine cannot run fails when it is built, so that people read why.

        Args:
            model: What a handler loaded.
            inputs: Asked only when a form is built.
            level: How far outputs may be from the model's own.
        """
        for program in self._programs:
            if level is OptimizeLevel.AUTO or (
                level is OptimizeLevel.SAFE and not program.is_narrow
            ):
                yield self._candidate(program, model, inputs)

    def _candidate(self, program: ArchiveProgram, model: Call, inputs: ModelInputs) -> Candidate:
        def build() -> Call:
            if missing := lacking(program, self._device):
                raise HandlerFailed(missing)
            call = self._load(program)
            examples = inputs(1)
            _check_structure(model, call, examples)
            if not program.is_machine_code:
                return call
            fit = Fit(examples, max_batch_size=self._max_batch_size)
            return _Guarded(call, model, fit=fit)

        return Candidate(
            name=f"the archive's {program.target} in {program.precision}",
            build=build,
            is_narrow=program.is_narrow,
            differs_by_size=program.is_machine_code,
            share=program.share or NARROW_SHARE,
        )

    def _load(self, program: ArchiveProgram) -> Call:
        path = self._model_dir / program.file
        match path.suffix:
            case ".pt":
                return torchscript.frozen(torchscript.load(path, device=self._device))
            case ".pt2":
                return exported.load(path, device=self._device)
            case ".onnx":
                return onnx_session.load(path, device=self._device)
            case suffix:
                raise HandlerFailed(f"{suffix} is no kind of program that this server knows")


class _Guarded:
    """Machine code, which believes its inputs, or the model where they are others."""

    def __init__(self, package: Call, model: Call, *, fit: Fit) -> None:
        self._package = package
        self._model = model
        self._fit = fit

    def __call__(self, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401  # the model's
        if named or not self._fit.batch_size_of(inputs):
            return self._model(*inputs, **named)
        return self._package(*(tensor.contiguous() for tensor in inputs))


def _check_structure(model: Call, call: Call, examples: Any) -> None:  # noqa: ANN401  # tensors
    """Handlers take outputs apart, so a program has to put them together as the model does.

    Raises:
        HandlerFailed: It does not.
    """
    with torch.inference_mode():
        one, other = (pytree.tree_structure(each(*examples)) for each in (model, call))
    if one != other:
        raise HandlerFailed("its outputs are put together in another way")
