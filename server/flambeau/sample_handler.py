"""`SampleHandler`: one request is one sample, and one bad sample fails alone.

Built-in handlers are made of it: a subclass says how a row becomes a sample and how outputs become
answers; decoding apart, batching and putting answers in order is done here.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from flambeau.codec import decode_json
from flambeau.errors import HandlerFailed, InvalidInput, RequestError
from flambeau.failure_text import print_traceback, text_of
from flambeau.handler import BaseHandler, moved
from flambeau.side_copies import regrouped
from flambeau.signature import SIGNATURE_PATH, Signature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.codec import Row
    from flambeau.context import Context
    from flambeau.side_copies import Arrival, SideCopies

Sample: TypeAlias = tuple[torch.Tensor, ...]
"""One request's inputs in the model's order, each without the batch dimension."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A batch's rows, decoded.

    Attributes:
        rows: The very list that the handler is called with.
        inputs: All of them as `collate` would give them, or None.
        samples: Else each apart, or what is wrong with it.
        seconds: What that took.
        arrival: What `inputs` and `samples` hold, if it is on its way to a device; None if there.
    """

    rows: Sequence[Row]
    inputs: tuple[torch.Tensor, ...] | None
    samples: list[Sample | RequestError]
    seconds: float
    arrival: Arrival | None = None

    def sent_by(self, copies: SideCopies) -> Prepared:
        """The same on its way to a CUDA device."""
        if self.inputs is not None:
            arrival = copies.begin(self.inputs)
            return replace(self, inputs=arrival.tensors, arrival=arrival)
        decoded = [each for each in self.samples if not isinstance(each, RequestError)]
        arrival = copies.begin(tensor for sample in decoded for tensor in sample)
        there = iter(regrouped(arrival.tensors, map(len, decoded)))
        samples = [each if isinstance(each, RequestError) else next(there) for each in self.samples]
        return replace(self, samples=samples, arrival=arrival)


class SampleHandler(BaseHandler):
    """A handler that decodes each request by itself; override `decode` and `postprocess`.

    Attributes:
        signature: The program's inputs and outputs, when the archive describes them.
        prepared_ahead: The next batch that `handle` is called with, decoded already; or None.
        decoding_s: Seconds that the last batch took to be decoded.
    """

    # as above: for subclasses with constructors of their own
    prepared_ahead: Prepared | None = None
    decoding_s: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.signature: Signature | None = None

    def may_decode_ahead(self) -> bool:
        """Whether decoding takes long, and lets another thread run meanwhile."""
        return False

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        path = Path(context.system_properties["model_dir"]) / SIGNATURE_PATH
        if path.is_file():
            self.signature = Signature.from_json(path.read_bytes())

    def decode(self, row: Row, idx: int) -> Sample:
        """Decode one request.

        Args:
            row: Its decoded inputs by name.
            idx: Its place in the batch, for questions to `self.context`.

        Raises:
            RequestError: The row does not fit the model; only this request fails.
        """
        raise NotImplementedError

    def preprocess(self, data: Sequence[Row]) -> list[Sample | RequestError]:
        """Decode each row apart; what is wrong with a row stands in its place."""
        return [self._decoded(row, idx) for idx, row in enumerate(data)]

    def _decoded(self, row: Row, idx: int) -> Sample | RequestError:
        try:
            return self.decode(row, idx)
        except RequestError as error:
            return error

    def value(self, row: Row, name: str, idx: int) -> object:
        """One input of a request.

        Raises:
            InvalidInput: It is missing, empty, or announced as JSON and is none.
        """
        assert self.context is not None
        if name not in row:
            given = ", ".join(map(repr, row)) or "nothing"
            raise InvalidInput(f"the request has {given}, expected {name!r}")
        value = row[name]
        if isinstance(value, (str, bytearray)) and not value:
            raise InvalidInput(f"{name} is empty; send one sample")
        content_type = self.context.get_input_content_type(idx, name)
        if content_type == "application/json" and isinstance(value, bytearray):
            try:
                decode_json(value)  # it failed before; now to say why
            except ValueError as error:
                raise InvalidInput(f"{name} is not JSON: {error}") from error
        return value

    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # what the model gives
        """Outputs of a batch to one answer per sample; override it."""
        raise NotImplementedError

    def sharing(self, sample: Sample) -> Hashable:
        """Samples for which this is equal are run in one call of the model: those of equal shapes.

        Override it together with `collate`.
        """
        return tuple(part.shape for part in sample)

    def calls(self, samples: Sequence[Sample]) -> Iterable[Sequence[int]]:
        """Which samples are run in one call of the model: those that `sharing` says.

        Override it when that depends on the whole batch.

        Returns:
            Places in `samples`, each in one call.
        """
        places_by_kind: dict[Hashable, list[int]] = defaultdict(list)
        for place, sample in enumerate(samples):
            places_by_kind[self.sharing(sample)].append(place)
        return places_by_kind.values()

    def collate(self, samples: Sequence[Sample]) -> tuple[Any, ...]:
        """Samples that share a call to what `inference` takes: stacked, with the batch first."""
        return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))

    def stacked(self, data: Sequence[Row]) -> tuple[torch.Tensor, ...] | None:  # noqa: ARG002  # for overrides
        """A whole batch as `collate` would give it, or None to decode each row by itself.

        For rows that are all alike this is much faster; override it where they often are.
        """
        return None

    def handle(self, data: Sequence[Row], context: Context) -> list[Any]:
        """Answer one batch; samples that can share one call of the model do."""
        return super().handle(data, context)

    def _answer_batch(self, data: Sequence[Row]) -> list[Any]:
        """As `BaseHandler`, but with as many calls of the model as the samples need."""
        if self._is_describe():
            return [self.describe_handle()]
        self.explain = self._is_explain()
        prepared, self.prepared_ahead = self.prepared_ahead, None
        if prepared is None or prepared.rows is not data or self.explain:
            prepared = self.prepare(data, stack=not self.explain)
        self.decoding_s = prepared.seconds
        if prepared.arrival is not None:
            prepared.arrival.wait()
        inputs, samples = prepared.inputs, prepared.samples
        if inputs is not None:
            return self._answer_samples(_unstacked(inputs), set(), inputs=inputs)
        if self.explain:
            (sample,) = samples  # the worker sends these alone
            if isinstance(sample, RequestError):
                return [sample]
            return self._explain_sample(sample, data)
        answers: list[Any] = list(samples)
        decoded = [
            (place, sample)
            for place, sample in enumerate(samples)
            if not isinstance(sample, RequestError)
        ]
        said: set[str] = set()
        for call in self.calls([sample for _, sample in decoded]):
            members = [decoded[number] for number in call]
            found = self._answer_samples([sample for _, sample in members], said)
            for (place, _), answer in zip(members, found, strict=True):
                answers[place] = answer
        return answers

    def prepare(self, data: Sequence[Row], *, stack: bool = True) -> Prepared:
        """Decode a batch.

        Args:
            data: Its rows; `self.context` is of the same batch.
            stack: Whether it may be decoded as a whole.
        """
        began_at = time.perf_counter()
        with self._traced_step("preprocess"):
            inputs = self.stacked(data) if stack else None
            samples = self.preprocess(data) if inputs is None else []
        seconds = time.perf_counter() - began_at
        return Prepared(rows=data, inputs=inputs, samples=samples, seconds=seconds)

    def _answer_samples(
        self, samples: Sequence[Sample], said: set[str], *, inputs: tuple[Any, ...] | None = None
    ) -> list[Any]:
        """Answers to samples that share a call; if it fails, halves of them are run apart.

        Args:
            samples: At least one.
            said: What tracebacks in the log end in already.
            inputs: The samples collated, when they are already.
        """
        try:
            with self._traced_step("inference"):
                outputs = self.inference(*(self.collate(samples) if inputs is None else inputs))
            with self._traced_step("postprocess"):
                answers = self.postprocess(outputs)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # noqa: BLE001  # the model's code may raise anything
            if len(samples) == 1 or self.model_yaml_config.get("retry") is False:
                return [_told(error, said)] * len(samples)
        else:
            return _one_each(answers, num_samples=len(samples))
        # not in the `except`, where the traceback of each half would bring this one's along
        middle = len(samples) // 2
        halves = (samples[:middle], samples[middle:])
        return [answer for half in halves for answer in self._answer_samples(half, said)]

    def _explain_sample(self, sample: Sample, data: Sequence[Row]) -> list[Any]:
        tensors = [moved(part, self.device) for part in self.collate([sample])]
        return self.explain_handle(tensors[0] if len(tensors) == 1 else tensors, data)


def _unstacked(inputs: tuple[torch.Tensor, ...]) -> list[Sample]:
    return list(zip(*(tensor.unbind() for tensor in inputs), strict=True))


def _one_each(answers: list[Any], *, num_samples: int) -> list[Any]:
    if len(answers) != num_samples:
        raise HandlerFailed(
            f"the model gave {len(answers)} outputs for {num_samples} samples; its outputs need "
            "the batch dimension first"
        )
    return answers


def _told(error: Exception, said: set[str]) -> Exception:
    """What a client learns of a failure; what it does not goes to the log, once per batch."""
    if isinstance(error, (RequestError, HandlerFailed)):
        return error
    if text_of(error) not in said:
        said.add(text_of(error))
        print_traceback()
    return HandlerFailed("Prediction failed")
