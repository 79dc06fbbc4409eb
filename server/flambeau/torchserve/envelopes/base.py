"""`BaseEnvelope`: goes around a handler's `handle`, before and after it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from flambeau.loading import is_coroutine_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from flambeau.context import Context


class BaseEnvelope(ABC):
    """TorchServe's class to derive envelopes from.

    Attributes:
        context: The context of the batch at hand.
    """

    def __init__(self, handle_fn: Callable[[Any, Context], Any]) -> None:
        # for the life of the worker
        self._handle_fn = handle_fn
        self._is_async = is_coroutine_function(handle_fn)
        # for the life of one batch
        self.context: Context | None = None

    def handle(self, data: Any, context: Context) -> Any:  # noqa: ANN401  # as the handler's
        """Answer a batch; returns a coroutine when the handler is one.

        A batch without rows, or one that asks for the model's description, is left as it is.
        """
        if not data or _asks_for_description(context):
            return self._handle_fn(data, context)
        if self._is_async:
            # several batches are under way: what belongs to this one must not be another's
            return copy.copy(self)._handle_later(data, context)  # noqa: SLF001  # another self
        self.context = context
        outputs = self._call(self.parse_input(data), context)
        return None if outputs is None else self.format_output(outputs)

    async def _handle_later(self, data: Any, context: Context) -> Any:  # noqa: ANN401  # as above
        self.context = context
        outputs = await self._call_later(self.parse_input(data), context)
        return None if outputs is None else self.format_output(outputs)

    @abstractmethod
    def parse_input(self, data: Any) -> Any:  # noqa: ANN401  # what the handler takes
        """The rows of a batch to what the handler takes."""

    @abstractmethod
    def format_output(self, data: Any) -> Any:  # noqa: ANN401  # what the handler gives
        """What the handler returned to one answer per request."""

    def _call(self, inputs: Any, context: Context) -> Any:  # noqa: ANN401  # as the handler's
        return self._handle_fn(inputs, context)

    async def _call_later(self, inputs: Any, context: Context) -> Any:  # noqa: ANN401  # as above
        return await self._handle_fn(inputs, context)


def _asks_for_description(context: Context) -> bool:
    processors = context.request_processor
    return bool(processors) and processors[0].get_request_property("describe") == "True"
