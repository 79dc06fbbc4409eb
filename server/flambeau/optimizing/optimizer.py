"""Builds candidates, checks them on the archive's samples, times them, and chooses.

What is chosen computes, on every sample, what the model computes as it was exported:

- `safe`: within 1e-4 of each number plus 1e-5 of the largest output (of 1 if that is more). Float32
  keeps 24 bits, 6e-8; folding a batch norm and adding up in another order cost a deep net some of
  them, never this many.
- `auto`: the same, or, for candidates in bfloat16, within 3 % of the largest output and with the
  same class in front. Bfloat16 keeps 8 bits, 0.4 %, and rounds after every layer.

A candidate also has to be worth its memory, a second copy of the weights.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
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
)
from flambeau.optimizing.choice import Choice
from flambeau.optimizing.machine import describe_machine
from flambeau.optimizing.remembered import RememberedChoice
from flambeau.optimizing.stopwatch import turns_s
from flambeau.parity import Tolerance, compare
from flambeau.self_check import SelfCheck, largest_number

if TYPE_CHECKING:
    from flambeau.messages import OptimizeWish

logger = logging.getLogger(__name__)

_NARROW_SHARE: Final = 0.03
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
    ) -> None:
        """An optimizer that has done nothing yet.

        Args:
            handler: Has loaded its model.
            check: Runs the handler's `inference` on the archive's samples.
            wish: What may be done.
            num_threads: The most threads one operation may use; 1 or more.
            find_candidates: The forms that there are of a model.
        """
        self._handler = handler
        self._check = check
        self._wish = wish
        self._num_threads = num_threads
        self._model = handler.model
        self._find_candidates = find_candidates
        self._memory: RememberedChoice | None = None
        if wish.archive_digest:
            facts = (wish.archive_digest, describe_machine(check.device), wish.level.value)
            self._memory = RememberedChoice(flambeau.__version__, *facts, check.max_batch_size)
        # once one sample has been timed
        self._batch_sizes = check.batch_sizes
        # once there is a choice
        self._choice = Choice(candidate=AS_EXPORTED)
        self._is_narrow = False
        self._remark = ""
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
        remembered = None if self._memory is None else self._memory.read()
        if remembered is not None and self._use_again(remembered):
            self.is_remembered = True
            self._remark = "; as measured before"
        elif not self._reaches_model():
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
        return replace(check, allowed_share=_NARROW_SHARE if self._is_narrow else 0.0)

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
        self.is_remembered = self._is_narrow = False
        self._remark = f": {reason}"

    def _reaches_model(self) -> bool:
        """Whether what is put in the model's place is what `inference` calls."""
        called: list[bool] = []

        def model(*inputs: Any, **named: Any) -> Any:  # noqa: ANN401  # the model's
            called.append(True)
            return self._model(*inputs, **named)

        self._handler.call_in_place_of_model(model)
        try:
            self._check.run(start=0, batch_size=1)
        finally:
            self._handler.call_in_place_of_model(None)
        return bool(called)

    def _candidates(self) -> dict[str, Candidate]:
        found = self._find_candidates(
            self._model, level=self._wish.level, device=self._check.device
        )
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
            self._is_narrow = candidate.is_narrow
        self._choice = choice
        return True

    def _choose(self) -> Choice:
        began_at = time.perf_counter()
        self._batch_sizes = self._sizes_to_time()
        building_until = began_at + _BUILDING_SHARE * self._wish.within_s
        rivals, refused = self._rivals(building_until)
        chosen, speed_up = self._fastest(rivals, began_at + self._wish.within_s)
        best = rivals[chosen]
        self._put_in_place(best)
        self._is_narrow = best.candidate is not None and best.candidate.is_narrow
        return Choice(
            candidate=chosen,
            batch_s=self._batch_s() if self._is_on_cpu else 0.0,
            speed_up=speed_up,
            max_abs_error=best.max_abs_error,
            refused=refused,
        )

    def _rivals(self, until: float) -> tuple[dict[str, Checked], list[str]]:
        """What can be chosen from, and what cannot and why."""
        rivals = {AS_EXPORTED: Checked(candidate=None, call=self._model, max_abs_error=0.0)}
        refused: list[str] = []
        candidates = self._candidates()
        expected = self._outputs() if candidates else []
        for name, candidate in candidates.items():
            if time.perf_counter() > until:
                break
            try:
                rivals[name] = self._checked(candidate, expected)
            except Exception as error:  # noqa: BLE001  # forms of models fail in many ways
                refused.append(f"{name} ({_reason(error)})")
            finally:
                self._handler.call_in_place_of_model(None)
        return rivals, refused

    def _checked(self, candidate: Candidate, expected: list[tuple[torch.Tensor, ...]]) -> Checked:
        """Build a candidate and hold it against the model.

        Raises:
            HandlerFailed: It computes something else.
            Exception: It cannot be built, or does not run.
        """
        call = candidate.build()
        self._handler.call_in_place_of_model(call)
        worst = 0.0
        self._check.run(start=0, batch_size=1)  # TorchScript only profiles in its first run
        for outputs, got in zip(expected, self._outputs(), strict=True):
            found = compare(outputs, got, self._tolerance(outputs, candidate))
            top1 = found.top1_agreement
            if not found.agrees or (candidate.is_narrow and top1 is not None and top1 < 1):
                raise HandlerFailed(f"other numbers: {found.detail}")
            worst = max(worst, found.max_abs_error)
        return Checked(candidate=candidate, call=call, max_abs_error=worst)

    def _outputs(self) -> list[tuple[torch.Tensor, ...]]:
        """The outputs for one sample alone, and for all in batches."""
        alone = tuple(self._check.run(start=0, batch_size=1))
        return [alone, self._check.run_all(self._batch_sizes[-1])]

    def _sizes_to_time(self) -> list[int]:
        """One sample, and a full batch or as much of it as does not take long."""
        self._check.run(start=0, batch_size=1)
        began_at = time.perf_counter()
        self._check.run(start=0, batch_size=1)
        size = int(_MAX_CALL_S / max(time.perf_counter() - began_at, 1e-9))
        return sorted({1, max(1, min(size, self._check.max_batch_size))})

    def _tolerance(self, outputs: tuple[torch.Tensor, ...], candidate: Candidate) -> Tolerance:
        share = _NARROW_SHARE if candidate.is_narrow else _SAFE_SHARE
        return Tolerance(atol=share * max(1.0, largest_number(outputs)), rtol=_SAFE_RTOL)

    def _fastest(self, rivals: dict[str, Checked], until: float) -> tuple[str, float]:
        """The rival that is worth it, and how much faster than the model it is."""
        if len(rivals) == 1:
            return AS_EXPORTED, 1.0
        sizes = self._batch_sizes
        calls = {
            (name, size): partial(self._run, rival, self._check.inputs(start=0, batch_size=size))
            for size in sizes
            for name, rival in rivals.items()
        }
        clock = time.thread_time if self._is_on_cpu else time.perf_counter
        turns = turns_s(calls, num_rounds=_NUM_ROUNDS, until=until, clock=clock)
        taken_s = {key: max(statistics.median(taken), 1e-9) for key, taken in turns.items()}
        speed_ups = {
            name: statistics.geometric_mean(
                taken_s[AS_EXPORTED, size] / taken_s[name, size] for size in sizes
            )
            for name in rivals
        }
        best = max(speed_ups, key=lambda name: speed_ups[name])
        if speed_ups[best] < _MIN_SPEED_UP:
            return AS_EXPORTED, 1.0
        return best, speed_ups[best]

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


def _set_threads(num_threads: int) -> None:
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)


def _reason(error: Exception) -> str:
    """An error in few words."""
    first = str(error).strip().partition("\n")[0][:160]
    return first if isinstance(error, HandlerFailed) else f"{type(error).__name__}: {first}"
