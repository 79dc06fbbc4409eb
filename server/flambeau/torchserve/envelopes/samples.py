"""`SampleEnvelope`: each request brings some samples, and gets what came of them.

The handler gets the samples of the whole batch as one list. Meanwhile the context speaks of samples
where it otherwise speaks of requests: sample 2's headers are those of the request that brought it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from flambeau.codec import decode_json
from flambeau.errors import FlambeauError, HandlerFailed, InvalidInput, RequestError
from flambeau.torchserve.envelopes.base import BaseEnvelope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flambeau.context import Context


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What one request asks for.

    Attributes:
        document: The JSON object that it brought.
        samples: What the handler gets of it.
    """

    document: Mapping[str, Any]
    samples: list[Any]


class SampleEnvelope(BaseEnvelope):
    """An envelope that says what one request's samples are, and what its answer is."""

    def __init__(self, handle_fn: Callable[[Any, Context], Any]) -> None:
        super().__init__(handle_fn)
        # for the life of one batch: what each request asks for, or what is wrong with it
        self._requests: list[Asked | RequestError] = []

    @abstractmethod
    def samples_of(self, document: Mapping[str, Any]) -> list[Any]:
        """One request's samples.

        Raises:
            RequestError: The document is not what the format asks for; only this request fails.
        """

    @abstractmethod
    def answer_of(self, outputs: Any, document: Mapping[str, Any], idx: int) -> object:  # noqa: ANN401
        """One request's answer.

        Args:
            outputs: What the handler gave for its samples: a list with as many items, or, when the
                batch has no other request, whatever it returned.
            document: What the request brought.
            idx: Its place in the batch.
        """

    def parse_input(self, data: Sequence[Any]) -> list[Any]:
        """The samples of all requests; what is wrong with a request is kept for its answer."""
        self._requests = [self._asked(row) for row in data]
        return [
            sample
            for request in self._requests
            if isinstance(request, Asked)
            for sample in request.samples
        ]

    def format_output(self, data: Any) -> list[object]:  # noqa: ANN401  # the handler's
        """One answer per request.

        Raises:
            HandlerFailed: There is not one output per sample.
        """
        match self._requests:
            case [Asked() as request]:
                return [self._answer(data, request, 0)]
            case _:
                return self._answers(data)

    def _asked(self, row: Any) -> Asked | RequestError:  # noqa: ANN401  # an input of any type
        try:
            document = document_of(row)
            return Asked(document=document, samples=self.samples_of(document))
        except RequestError as error:
            return error

    def _answers(self, data: object) -> list[object]:
        if not isinstance(data, list):
            raise HandlerFailed("Invalid model predict output")
        if len(data) != len(self._owners()):
            raise HandlerFailed("number of batch response mismatched")
        outputs = iter(data)
        return [
            request
            if isinstance(request, RequestError)
            else self._answer(list(islice(outputs, len(request.samples))), request, idx)
            for idx, request in enumerate(self._requests)
        ]

    def _answer(self, outputs: Any, request: Asked, idx: int) -> object:  # noqa: ANN401
        """A request fails when a sample of it does."""
        for output in outputs if isinstance(outputs, list) else ():
            if isinstance(output, FlambeauError):
                return output
        return self.answer_of(outputs, request.document, idx)

    def _owners(self) -> list[int]:
        """By place of a sample, the place of the request that brought it."""
        return [
            idx
            for idx, request in enumerate(self._requests)
            if isinstance(request, Asked)
            for _ in request.samples
        ]

    def _call(self, inputs: list[Any], context: Context) -> Any:  # noqa: ANN401  # the handler's
        if not inputs:
            return []
        with self._speaking_of_samples(context):
            return super()._call(inputs, context)

    async def _call_later(self, inputs: list[Any], context: Context) -> Any:  # noqa: ANN401
        if not inputs:
            return []
        with self._speaking_of_samples(context):
            return await super()._call_later(inputs, context)

    @contextmanager
    def _speaking_of_samples(self, context: Context) -> Generator[None]:
        processors, ids = context.request_processor, context.request_ids
        sink = context.intermediate_sink
        if len(processors) != len(self._requests):  # outside of a worker
            yield
            return
        owners = self._owners()

        def enter() -> None:
            context.request_processor = [processors[idx] for idx in owners]
            context.request_ids = {place: ids[idx] for place, idx in enumerate(owners)}

        def leave() -> None:
            context.request_processor, context.request_ids = processors, ids

        def send_parts(outputs: list[object]) -> None:
            assert sink is not None
            leave()
            try:
                sink(self.format_output(outputs))
            finally:
                enter()

        enter()
        context.intermediate_sink = None if sink is None else send_parts
        try:
            yield
        finally:
            leave()
            context.intermediate_sink = sink


def document_of(row: Any) -> dict[str, Any]:  # noqa: ANN401  # an input of any type
    """The JSON object that a request brought as `data`, as `body`, or as its fields.

    Raises:
        InvalidInput: There is none.
    """
    document = (row.get("data") or row.get("body") or row) if isinstance(row, dict) else row
    if isinstance(document, (str, bytes, bytearray)):
        try:
            document = decode_json(document.encode() if isinstance(document, str) else document)
        except ValueError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"the body is a {type(document).__name__}; send a JSON object")
    return document
