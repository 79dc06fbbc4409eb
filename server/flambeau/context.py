"""What a handler may ask about its model and its batch, and say about its answers.

`Context` has TorchServe's members and lives as long as the worker; what belongs to one batch is
held by `RequestProcessor`s, which are new for every batch. Handlers may attach attributes.

A handler that is a coroutine answers several batches at a time, each with a shallow copy of the
context: what was attached while the model was loaded is in all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flambeau.errors import HandlerFailed
from flambeau.handler_metrics import MetricsCache
from flambeau.media_type import media_type
from flambeau.messages import SEQUENCE_HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flambeau.messages import InferenceRequest


class Headers(dict[str, Any]):
    """Headers by name: found as spelt, else in lower case.

    The front hands on names in lower case, as ASGI has them; handlers ask for `Content-Type`.
    """

    def __missing__(self, key: str) -> Any:  # noqa: ANN401  # text, or an input's headers
        lower = key.lower()
        if lower == key:
            raise KeyError(key)
        return self[lower]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (
            isinstance(key, str) and super().__contains__(key.lower())
        )

    def get(self, key: str, default: Any = None, /) -> Any:  # noqa: ANN401  # as above
        found = super().get(key)
        return super().get(key.lower(), default) if found is None else found


class RequestProcessor:
    """One request's headers, and the status and headers of its answer."""

    def __init__(self, request_header: Mapping[str, Any] | None = None) -> None:
        self._request: InferenceRequest | None = None
        # of a request they are made when the handler asks: few do, and a batch has many
        self._request_header = None if request_header is None else Headers(request_header)
        self._status = 200
        self._phrase: str | None = None
        self._response_header: dict[str, str] = {}

    @classmethod
    def from_request(cls, request: InferenceRequest) -> RequestProcessor:
        """Take the headers; each input adds its content type under its own name, as in TorchServe.

        It stands there without parameters, and as an empty text when there is none. A repeated
        header counts with its last value. A header is not replaced by an input that a client gave
        the same name.
        """
        processor = cls()
        processor._request = request
        return processor

    def get_request_property(self, key: str) -> Any:  # noqa: ANN401  # text, or an input's headers
        """The header spelt exactly like this, else in lower case, else None."""
        return self.get_request_properties().get(key)

    def get_request_properties(self) -> dict[str, Any]:
        if self._request_header is None:
            self._request_header = Headers() if self._request is None else _headers(self._request)
        return self._request_header

    def get_input_content_type(self, name: str) -> str | None:
        """The media type of an input in lower case; None when not given. Not in TorchServe."""
        for part in reversed(self._request.inputs if self._request is not None else ()):
            if part.name == name:  # the last of its name, as rows have it
                return media_type(part.content_type) or None
        header = self.get_request_property(name)
        content_type = header.get("content-type") if isinstance(header, dict) else None
        return content_type.lower() if content_type else None

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the answer's status; the body stays what the handler returns.

        Raises:
            ValueError: `code` is not a status that can end a response.
        """
        if not 200 <= code <= 599:
            raise ValueError(f"response status is {code!r}; use a whole number from 200 to 599")
        self._status = int(code)  # `http.HTTPStatus` is welcome
        self._phrase = None if reason_phrase is None else str(reason_phrase)

    def get_response_status_code(self) -> int:
        return self._status

    def get_response_status_phrase(self) -> str | None:
        return self._phrase

    def add_response_property(self, key: str, value: object) -> None:
        self._response_header[str(key)] = str(value)

    def get_response_headers(self) -> dict[str, str]:
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        return self._response_header.get(key)


class Context:
    """A handler's view of its model and of the batch at hand.

    Attributes:
        model_name: The name the model is registered under.
        manifest: `MAR-INF/MANIFEST.json`, as it is.
        system_properties: `model_dir`, `gpu_id` (int or None), `batch_size` (the most requests of
            one batch), `server_name`, `server_version` and `limit_max_image_pixels`.
        model_yaml_config: The model's YAML, or an empty dict.
        request_ids: Request id by position in the batch; empty outside of batches.
        request_processor: One per request of the batch, in its order; empty outside of batches.
        metrics: The model's `MetricsCache`; None in a context made without one.
        stopping_criteria: One callable per request of a continuous batch, in its order: takes the
            request's output, says whether it is the last. Set by the handler.
        cl_socket: None; the way to the client is `send_intermediate`.
        header_key_sequence_id: The header with the id of a request's sequence.
        header_key_sequence_start: The header of the sequence's first request.
        header_key_sequence_end: The header of its last.
        intermediate_sink: What `send_intermediate` hands parts of answers to, one item per
            request; set by the worker while a handler is at work, else None.
    """

    def __init__(  # noqa: PLR0917  # TorchServe's signature
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any],
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,  # noqa: FBT001, FBT002  # as above
        metrics: object | None = None,
        model_yaml_config: dict[str, Any] | None = None,
        *,
        sequence_headers: tuple[str, str, str] = SEQUENCE_HEADERS,
    ) -> None:
        # for the life of the worker
        self.model_name = model_name
        self.manifest = manifest
        self.model_yaml_config = model_yaml_config or {}
        self.metrics = metrics
        self.cl_socket: object | None = None
        self.stopping_criteria: list[Callable[[Any], bool]] | None = None
        (
            self.header_key_sequence_id,
            self.header_key_sequence_start,
            self.header_key_sequence_end,
        ) = sequence_headers
        self.system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        # for the life of one batch
        self.request_ids: dict[int, str] = {}
        self.request_processor: list[RequestProcessor] = []
        self.intermediate_sink: Callable[[list[object]], None] | None = None

    def send_intermediate(self, outputs: list[Any]) -> None:
        """Send one part of every answer of the batch now; the result comes after them.

        Args:
            outputs: One item per request, of the kinds that `handle` returns.

        Raises:
            HandlerFailed: There is no batch at hand, or not one sendable item per request.
        """
        if self.intermediate_sink is None:
            raise HandlerFailed("parts of answers can be sent only while a batch is answered")
        self.intermediate_sink(outputs)

    def begin_batch(self, requests: Sequence[InferenceRequest]) -> None:
        """Forget the batch before, begin this one."""
        self.request_ids = {i: request.request_id for i, request in enumerate(requests)}
        self.request_processor = [RequestProcessor.from_request(request) for request in requests]
        if isinstance(self.metrics, MetricsCache):
            self.metrics.set_request_ids(self.request_ids)

    def end_batch(self) -> None:
        self.begin_batch(())

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:  # noqa: ANN401  # as above
        """A client header under its usual spelling or in lower case, or None."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """All headers, and per input `{"content-type": ...}` under the input's name."""
        return self.request_processor[idx].get_request_properties()

    def get_sequence_id(self, idx: int) -> str | None:
        """The id of the sequence a request belongs to, or None."""
        sequence_id: str | None = self.get_request_header(idx, self.header_key_sequence_id)
        return sequence_id

    def get_input_content_type(self, idx: int, name: str) -> str | None:
        """The media type one input came with: lower case, no parameters, None when not given.

        Not in TorchServe.
        """
        return self.request_processor[idx].get_input_content_type(name)

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self.request_processor[idx].get_response_header("content-type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set one answer's status; does nothing while the model loads."""
        if self.request_processor:
            self.request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for processor in self.request_processor:
            processor.report_status(code, reason_phrase=phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_header(self, idx: int, key: str, value: object) -> None:
        """Add a header to one answer; does nothing while the model loads."""
        if self.request_processor:
            self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self.request_processor[idx].get_response_headers()


def _headers(request: InferenceRequest) -> Headers:
    headers = Headers(request.headers)
    for part in request.inputs:
        content_type = (part.content_type or "").partition(";")[0].strip()
        headers.setdefault(part.name, {"content-type": content_type})
    return headers
