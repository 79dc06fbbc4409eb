"""Compiled forms of a model: those that are in the store, and all others where time allows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from flambeau import torchscript
from flambeau.messages import OptimizeLevel
from flambeau.optimizing.candidates import Call, Candidate, ModelInputs
from flambeau.optimizing.library_store import LibraryStore
from flambeau.optimizing.machine import computes_bfloat16, describe_machine

if TYPE_CHECKING:
    from flambeau.messages import OptimizeWish

COMPILED: Final = "compiled"


class CompiledCandidates:
    """Finds the compiled forms of one archive's model on one machine."""

    def __init__(
        self,
        wish: OptimizeWish,
        *,
        device: torch.device,
        max_batch_size: int,
        store: LibraryStore | None = None,
    ) -> None:
        """Look in a store.

        Args:
            wish: Names the archive, and says whether there is time to compile.
            device: Where the model is.
            max_batch_size: The size of a full batch.
            store: Where libraries are kept; the user's if None.
        """
        self._wish = wish
        self._device = device
        self._max_batch_size = max_batch_size
        self._store = store or LibraryStore()

    def of(self, model: object, inputs: ModelInputs) -> Iterator[Candidate]:
        """The forms of this model, best first; none for an archive whose digest is not known.

        Args:
            model: What a handler loaded.
            inputs: Asked only when a form is built.
        """
        is_compilable = torchscript.is_program(model) or isinstance(model, torch.nn.Module)
        if not (self._wish.archive_digest and is_compilable):
            return
        if self._wish.level is OptimizeLevel.AUTO and computes_bfloat16(self._device):
            yield from self._candidate("compiled, bfloat16", model, inputs, is_narrow=True)
        yield from self._candidate(COMPILED, model, inputs, is_narrow=False)

    def _candidate(
        self, name: str, model: object, inputs: ModelInputs, *, is_narrow: bool
    ) -> Iterator[Candidate]:
        machine = describe_machine(self._device)
        facts = (self._wish.archive_digest, machine, self._max_batch_size, name)
        path = self._store.find(*facts)
        if path is None and not self._wish.compile:
            return

        def build() -> Call:
            from flambeau.optimizing import compiled  # noqa: PLC0415  # most starts need none

            found = path or self._compile(facts, model, inputs, is_narrow=is_narrow)
            return compiled.load(
                found, model, examples=inputs(1), max_batch_size=self._max_batch_size
            )

        yield Candidate(
            name=name,
            build=build,
            is_narrow=is_narrow,
            differs_by_size=True,
            discard=partial(self._store.remove, *facts),
        )

    def _compile(
        self, facts: tuple[object, ...], model: object, inputs: ModelInputs, *, is_narrow: bool
    ) -> Path:
        """Compile and keep.

        Raises:
            Exception: The model has no such form, or there is no compiler or space.
        """
        from flambeau.optimizing import compiled  # noqa: PLC0415  # as above

        size = compiled.example_size(self._max_batch_size)
        with self._store.workplace() as directory:
            library = directory / "model.so"
            compiled.compile_model(
                model,
                library,
                examples=inputs(size),
                max_batch_size=self._max_batch_size,
                is_narrow=is_narrow,
            )
            return self._store.add(library, *facts)
