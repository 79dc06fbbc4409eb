"""Builds candidates, checks them on the archive's samples, times them, and chooses.

What is chosen computes, on every sample, what the model computes as it was exported:

- `safe`: within 1e-4 of each number plus 1e-5 of the largest output (of 1 if that is more). Float32
  keeps 24 bits, 6e-8; folding a batch norm and adding up in another order cost a deep net some of
  them, never this many.
- `auto`: the same, or, for candidates in bfloat16, within 3 % of the largest output and with the
  same class in front. Bfloat16 keeps 8 bits, 0.4 %, and rounds after every layer. Programs that an
  archive has in fewer bits are held to what the export held them to, and to the class.

A candidate also has to be worth its memory, a second copy of the weights.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

import flambeau
from flambeau.errors import HandlerFailed
from flambeau.optimizing.candidates import (
    AS_EXPORTED,
    Call,
    Candidate,
    FindCandidates,
    candidates_for,
    graph_candidates,
)
from flambeau.optimizing.choice import Choice, Finding
from flambeau.optimizing.compiled_candidates import CompiledCandidates
from flambeau.optimizing.machine import describe_machine
from flambeau.optimizing.remembered import RememberedChoice
from flambeau.optimizing.stopwatch import turns_s
from flambeau.parity import Tolerance, compare, largest_number
from flambeau.self_check import SelfCheck

if TYPE_CHECKING:
    from flambeau.messages import OptimizeWish
    from flambeau.optimizing.archive_candidates import ArchiveCandidates

logger = logging.getLogger(__name__)

_SAFE_SHARE: Final = 1e-5
_SAFE_RTOL: Final = 1e-4
_MIN_SPEED_UP: Final = 1.05  # for less, the weights stay shared and the memory free
_PER_THREAD_S: Final = 0.01  # of a batch; with less, threads mostly wait for each other
_MAX_CALL_S: Final = 0.25  # of a batch that is timed; a larger one has the same layers to gain on
_NUM_ROUNDS: Final = 7
_BUILDING_SHARE: Final = 0.6  # of the time; the rest is for rounds


class Optimizable(Protocol):
    """A handler whose `inference` can be told to call something in place of its model."""

    model: Any

    def call_in_place_of_model(self, call: Any) -> None:  # noqa: ANN401  # as the model
        """Call this from now on; None for the model itself."""
        ...


class _OutOfTimeError(Exception):
    """A form may be right, but there is no time to find out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A candidate that was built and computes what it has to."""

    candidate: Candidate | None
    call: Call
    max_abs_error: float


class Optimizer:
    """Chooses for one model in one worker."""

    def __init__(
        self,
        handler: Optimizable,
        check: SelfCheck,
        *,
        wish: OptimizeWish,
        num_threads: int,
        find_candidates: FindCandidates = candidates_for,
        archive: ArchiveCandidates | None = None,
    ) -> None:
        """An optimizer that has done nothing yet.

        Args:
            handler: Has loaded its model.
            check: Runs the handler's `inference` on the archive's samples.
            wish: What may be done.
            num_threads: The most threads one operation may use; 1 or more.
            find_candidates: The forms that there are of a model.
            archive: The programs that its archive has beside it.
        """
        self._handler = handler
        self._check = check
        self._wish = wish
        self._num_threads = num_threads
        self._model = handler.model
        self._find_candidates = find_candidates
        self._archive = archive
        self._compiled = CompiledCandidates(
            wish, device=check.device, max_batch_size=check.max_batch_size
        )
        self._memory: RememberedChoice | None = None
        if wish.archive_digest:
            facts = (wish.archive_digest, describe_machine(check.device), wish.level.value)
            self._memory = RememberedChoice(flambeau.__version__, *facts, check.max_batch_size)
        # once one sample has been timed
        self._batch_sizes = check.batch_sizes
        # once there is a choice
        self._choice = Choice(candidate=AS_EXPORTED)
        self._allowed_share = 0.0
        self._remark = ""
        # what was measured; empty when an earlier start did
        self.findings: list[Finding] = []
        # whether an earlier start on this machine has chosen and checked it
        self.is_remembered = False

    @property
    def text(self) -> str:
        """The choice, for people."""
        return self._choice.text(num_threads=self._num_threads) + self._remark

    def use_threads(self, num_threads: int) -> None:
        """Run with as many threads from now on, or with as many as a batch keeps busy.

        Args:
            num_threads: The most threads one operation may use; 1 or more.
        """
        if self._wish.choose_threads and self._choice.batch_s:
            num_threads = max(1, min(num_threads, int(self._choice.batch_s / _PER_THREAD_S)))
        self._num_threads = num_threads
        _set_threads(self._num_threads)

    def run(self) -> None:
        """Choose, and let the handler use what was chosen; it is warm then.

        Raises:
            Exception: Whatever the model raises as it was exported.
        """
        if self._is_on_cpu:
            _set_threads(1)  # one thread's own time tells the same on a busy machine
        remembered = None
        if self._memory is not None and not self._wish.compile:
            remembered = self._memory.read()
        if remembered is not None and self._use_again(remembered):
            self.is_remembered = True
            self._remark = "; as measured before"
        elif self._model_inputs(1) is None:
            self._remark = ": the handler's inference does not call the model it loaded"
            self._memory = None
        else:
            self._choice = self._choose()
        self.use_threads(self._num_threads)
        try:
            self._check.warm_up()
        except Exception as error:  # noqa: BLE001  # forms of models fail in many ways
            self.undo(_reason(error))
            self._check.warm_up()

    def with_tolerance(self, check: SelfCheck) -> SelfCheck:
        """The check, allowing what the chosen form is allowed."""
        return replace(check, allowed_share=self._allowed_share)

    def remember(self) -> None:
        """Keep the choice for later starts: it has been compared with the record."""
        if self._memory is not None and not self.is_remembered:
            self._memory.write(self._choice)

    def undo(self, reason: str) -> None:
        """Let the handler call its model again.

        Args:
            reason: Why, for people.
        """
        self._handler.call_in_place_of_model(None)
        self._choice = Choice(candidate=AS_EXPORTED, batch_s=self._choice.batch_s)
        self.is_remembered = False
        self._allowed_share = 0.0
        self._remark = f": {reason}"

    def _model_inputs(self, batch_size: int) -> list[Any] | None:
        """What `inference` gives its model for a batch; empty if by name, None without a call."""
        called: list[list[Any]] = []

        def model(*inputs: Any, **named: Any) -> Any:  # noqa: ANN401  # the model's
            called.append([] if named else list(inputs))
            return self._model(*inputs, **named)

        self._handler.call_in_place_of_model(model)
        try:
            self._check.run(start=0, batch_size=batch_size)
        finally:
            self._handler.call_in_place_of_model(None)
        return called[0] if called else None

    def _example_inputs(self, batch_size: int) -> list[torch.Tensor]:
        """What `inference` gives its model, for a form that takes tensors only.

        Raises:
            HandlerFailed: It gives something else, or tensors without a batch.
        """
        inputs = self._model_inputs(batch_size)
        if not inputs or not all(_is_batch(each, batch_size) for each in inputs):
            raise HandlerFailed("the handler gives its model other inputs than batches of tensors")
        return inputs

    def _candidates(self) -> dict[str, Candidate]:
        level, device = self._wish.level, self._check.device
        inputs = self._example_inputs
        archive = self._archive
        found = [
            *(() if archive is None else archive.of(self._model, inputs, level=level)),
            *self._compiled.of(self._model, inputs),
            *graph_candidates(
                self._model,
                inputs,
                level=level,
                device=device,
                max_batch_size=self._check.max_batch_size,
            ),
            *self._find_candidates(self._model, level=level, device=device),
        ]
        return {candidate.name: candidate for candidate in found}

    def _use_again(self, choice: Choice) -> bool:
        """Use what an earlier start has chosen; False when that cannot be."""
        if choice.candidate != AS_EXPORTED:
            candidate = self._candidates().get(choice.candidate)
            if candidate is None:
                return False
            try:
                self._handler.call_in_place_of_model(candidate.build())
                self._check.run(start=0, batch_size=1)
            except Exception as error:  # noqa: BLE001  # forms of models fail in many ways
                logger.info("%s is measured again: %s", candidate.name, _reason(error))
                self._handler.call_in_place_of_model(None)
                return False
            self._allowed_share = _allowed_share(candidate)
        self._choice = choice
        return True

    def _choose(self) -> Choice:
        began_at = time.perf_counter()
        self._batch_sizes = self._sizes_to_time()
        building_until = began_at + _BUILDING_SHARE * self._wish.within_s
        rivals, refused = self._rivals(building_until)
        self._time(rivals, began_at + self._wish.within_s)
        fastest = max(self.findings, key=lambda finding: finding.speed_up)
        chosen, speed_up = fastest.candidate, fastest.speed_up
        if speed_up < _MIN_SPEED_UP:
            chosen, speed_up = AS_EXPORTED, 1.0
        self.findings += [Finding(candidate=name, refused=why) for name, why in refused.items()]
        best = rivals[chosen]
        self._put_in_place(best)
        self._allowed_share = _allowed_share(best.candidate)
        return Choice(
            candidate=chosen,
            batch_s=self._batch_s() if self._is_on_cpu else 0.0,
            speed_up=speed_up,
            max_abs_error=best.max_abs_error,
            refused=[f"{name} ({why})" for name, why in refused.items()],
        )

    def _rivals(self, until: float) -> tuple[dict[str, Checked], dict[str, str]]:
        """What can be chosen from, and what cannot and why."""
        rivals = {AS_EXPORTED: Checked(candidate=None, call=self._model, max_abs_error=0.0)}
        refused: dict[str, str] = {}
        candidates = self._candidates()
        expected = self._outputs() if candidates else []
        expected_noisy: tuple[torch.Tensor, ...] = ()
        if any(candidate.differs_by_size for candidate in candidates.values()):
            size = self._check.max_batch_size
            expected_noisy = tuple(self._noisy.run(start=0, batch_size=size))
        for name, candidate in candidates.items():
            if time.perf_counter() > until:
                break
            try:
                rivals[name] = self._checked(candidate, expected, expected_noisy, until)
            except _OutOfTimeError as error:
                refused[name] = str(error)
            except Exception as error:  # noqa: BLE001  # forms of models fail in many ways
                refused[name] = _reason(error)
                candidate.discard()
            finally:
                self._handler.call_in_place_of_model(None)
        return rivals, refused

    def _checked(
        self,
        candidate: Candidate,
        expected: list[tuple[torch.Tensor, ...]],
        expected_noisy: tuple[torch.Tensor, ...],
        until: float,
    ) -> Checked:
        """Build a candidate and hold it against the model.

        Raises:
            HandlerFailed: It computes something else.
            _OutOfTimeError: There are more sizes to compare than there is time for.
            Exception: It cannot be built, or does not run.
        """
        call = candidate.build()
        self._handler.call_in_place_of_model(call)
        worst = 0.0
        self._check.run(start=0, batch_size=1)  # TorchScript only profiles in its first run
        for outputs, got in zip(expected, self._outputs(), strict=True):
            worst = max(worst, self._difference(outputs, got, candidate))
        if candidate.differs_by_size:
            worst = max(worst, self._worst_of_all_sizes(candidate, expected_noisy, until))
        return Checked(candidate=candidate, call=call, max_abs_error=worst)

    @cached_property
    def _noisy(self) -> SelfCheck:
        return _with_noise(self._check)

    def _worst_of_all_sizes(
        self, candidate: Candidate, expected: tuple[torch.Tensor, ...], until: float
    ) -> float:
        """The largest difference, in batches of every size.

        Raises:
            HandlerFailed: It is larger than the form is allowed.
            _OutOfTimeError: There are more sizes than there is time for.
        """
        worst = 0.0
        for size in range(1, self._check.max_batch_size + 1):
            if time.perf_counter() > until:
                raise _OutOfTimeError("no time to compare all batch sizes")
            outputs = tuple(output[:size] for output in expected)
            got = tuple(self._noisy.run(start=0, batch_size=size))
            worst = max(worst, self._difference(outputs, got, candidate, by_class=False))
        return worst

    def _difference(
        self,
        outputs: tuple[torch.Tensor, ...],
        got: tuple[torch.Tensor, ...],
        candidate: Candidate,
        *,
        by_class: bool = True,
    ) -> float:
        """The largest difference between a model's outputs and a form's.

        Args:
            outputs: The model's.
            got: The form's.
            candidate: The form.
            by_class: Whether a form with fewer bits must find the same classes, too.

        Raises:
            HandlerFailed: It is larger than the form is allowed.
        """
        found = compare(outputs, got, self._tolerance(outputs, candidate))
        top1 = found.top1_agreement
        other_class = by_class and candidate.is_narrow and top1 is not None and top1 < 1
        if not found.agrees or other_class:
            raise HandlerFailed(f"other numbers: {found.detail}")
        return found.max_abs_error

    def _outputs(self) -> list[tuple[torch.Tensor, ...]]:
        """The outputs for one sample alone, and for all in batches."""
        alone = tuple(self._check.run(start=0, batch_size=1))
        return [alone, self._check.run_all(self._batch_sizes[-1])]

    def _sizes_to_time(self) -> list[int]:
        """One sample, and a full batch or as much of it as does not take long."""
        if self._wish.compile:
            return self._check.batch_sizes
        self._check.run(start=0, batch_size=1)
        began_at = time.perf_counter()
        self._check.run(start=0, batch_size=1)
        size = int(_MAX_CALL_S / max(time.perf_counter() - began_at, 1e-9))
        return sorted({1, max(1, min(size, self._check.max_batch_size))})

    def _tolerance(self, outputs: tuple[torch.Tensor, ...], candidate: Candidate) -> Tolerance:
        share = candidate.share if candidate.is_narrow else _SAFE_SHARE
        return Tolerance(atol=share * max(1.0, largest_number(outputs)), rtol=_SAFE_RTOL)

    def _time(self, rivals: dict[str, Checked], until: float) -> None:
        """Find how much faster than the model each rival is."""
        if len(rivals) == 1:
            self.findings = [Finding(candidate=AS_EXPORTED, speed_up=1.0)]
            return
        sizes = self._batch_sizes
        calls = {
            (name, size): partial(self._run, rival, self._check.inputs(start=0, batch_size=size))
            for size in sizes
            for name, rival in rivals.items()
        }
        clock = time.thread_time if self._is_on_cpu else time.perf_counter
        turns = turns_s(calls, num_rounds=_NUM_ROUNDS, until=until, clock=clock)
        taken_s = {key: max(statistics.median(taken), 1e-9) for key, taken in turns.items()}
        self.findings = [
            Finding(
                candidate=name,
                alone_s=taken_s[name, sizes[0]],
                batch_s=taken_s[name, sizes[-1]],
                speed_up=statistics.geometric_mean(
                    taken_s[AS_EXPORTED, size] / taken_s[name, size] for size in sizes
                ),
                max_abs_error=rival.max_abs_error,
            )
            for name, rival in rivals.items()
        ]

    def _batch_s(self) -> float:
        """Seconds of work in the largest batch that is timed, in the form that is in place."""
        inputs = self._check.inputs(start=0, batch_size=self._batch_sizes[-1])
        calls = {"": partial(self._check.inference, *inputs)}
        calls[""]()  # what a first run does is not counted
        turns = turns_s(calls, num_rounds=2, until=math.inf, clock=time.thread_time)
        return min(turns[""])

    def _run(self, rival: Checked, inputs: list[torch.Tensor]) -> None:
        self._put_in_place(rival)
        self._check.inference(*inputs)
        if self._check.device.type == "cuda":
            torch.cuda.synchronize()

    def _put_in_place(self, rival: Checked) -> None:
        self._handler.call_in_place_of_model(None if rival.candidate is None else rival.call)

    @property
    def _is_on_cpu(self) -> bool:
        return self._check.device.type == "cpu"


def _with_noise(check: SelfCheck) -> SelfCheck:
    """The check with inputs to compare a model and a form of it on, each sample another.

    An archive's samples may be few, or zeros, which would not tell what a compiler has mixed up.
    Numbers get noise of their own spread added; what is no number, as words are, stays.
    """
    samples = check.samples
    places = torch.arange(max(len(samples), check.max_batch_size)) % len(samples)
    generator = torch.Generator().manual_seed(0)
    inputs: list[torch.Tensor] = []
    for each in samples.inputs:
        tensor = each[places]
        if tensor.is_floating_point():
            spread = float(tensor.float().std(correction=0)) or 1.0
            tensor = tensor + spread * torch.randn(tensor.shape, generator=generator).to(tensor)
        inputs.append(tensor)
    return replace(check, samples=replace(samples, inputs=tuple(inputs)))


def _allowed_share(candidate: Candidate | None) -> float:
    return candidate.share if candidate is not None and candidate.is_narrow else 0.0


def _is_batch(value: object, batch_size: int) -> bool:
    return isinstance(value, torch.Tensor) and value.shape[:1] == (batch_size,)


def _set_threads(num_threads: int) -> None:
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)


def _reason(error: Exception) -> str:
    """An error in few words."""
    first = str(error).strip().partition("\n")[0][:160]
    return first if isinstance(error, HandlerFailed) else f"{type(error).__name__}: {first}"
