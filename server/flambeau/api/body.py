"""From an HTTP body to the inputs of an inference request: limits and form parsing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from flambeau.errors import BodyTooLarge, InvalidInput
from flambeau.messages import Input

_MAX_FORM_FIELDS = 1000
_MAX_PARTS = 100
_MAX_PART_HEADERS = 16
_MAX_PART_HEADER_BYTES = 8 << 10  # all of one part's
_MAX_BOUNDARY_BYTES = 70  # RFC 2046, section 5.1.1
_MAX_KNOWN_TYPES = 256


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How long a body may be.

    Attributes:
        max_bytes: The longest.
    """

    max_bytes: int

    def check_announced(self, content_length: str) -> None:
        """Raises BodyTooLarge when the header, empty if there is none, announces too much."""
        if content_length.isdigit() and int(content_length) > self.max_bytes:
            raise BodyTooLarge(self._text(f"{content_length} bytes"))

    def check_received(self, num_bytes: int) -> None:
        """Raises BodyTooLarge when more has come."""
        if num_bytes > self.max_bytes:
            raise BodyTooLarge(self._text("more bytes"))

    def _text(self, size: str) -> str:
        return (
            f"the body has {size}, over max_request_bytes {self.max_bytes}; send less, or raise "
            "the limit"
        )


async def read_body(request: Request, limit: BodyLimit) -> bytes | bytearray:
    """The whole body, refused as early as its size is known.

    Raises:
        BodyTooLarge: More than the limit, announced or received.
        ClientDisconnect: The client left before sending all of it.
    """
    limit.check_announced(request.headers.get("content-length", ""))
    first = b""
    body: bytearray | None = None
    async for chunk in request.stream():
        if not chunk:
            continue
        if not first:
            first = chunk  # most bodies arrive in one piece, which is then used as it is
        else:
            body = bytearray(first) if body is None else body
            body += chunk
        limit.check_received(len(first if body is None else body))
    return first if body is None else body


def split_inputs(body: bytes | bytearray, *, content_type: str | None) -> list[Input]:
    """One input per form field, or the one input `body`.

    A field that is repeated keeps its last value, as in TorchServe.

    Raises:
        InvalidInput: A form that is damaged, unterminated or empty.
    """
    kind, options = _parse_content_type(content_type)
    if kind == b"multipart/form-data":
        return _multipart(body, boundary=options.get(b"boundary", b""))
    if kind == b"application/x-www-form-urlencoded":
        return _urlencoded(body)
    return [Input(name="body", content_type=content_type, body=memoryview(body))]


@lru_cache(_MAX_KNOWN_TYPES)
def _parse_content_type(content_type: str | None) -> tuple[bytes, Mapping[bytes, bytes]]:
    return parse_options_header(content_type)


def _urlencoded(body: bytes | bytearray) -> list[Input]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS)
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(f"the form cannot be read: {error}") from error
    fields = {
        name: Input(name=name, content_type=None, body=memoryview(value.encode()))
        for name, value in pairs
    }
    return _not_empty(fields)


def _multipart(body: bytes | bytearray, *, boundary: bytes) -> list[Input]:
    if not boundary:
        raise InvalidInput("the multipart content type names no boundary; let the client set it")
    if len(boundary) > _MAX_BOUNDARY_BYTES:
        raise InvalidInput(
            f"the multipart boundary has {len(boundary)} bytes, over {_MAX_BOUNDARY_BYTES}"
        )
    form = _Form()
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin_part,
            "on_header_field": form.add_header_name,
            "on_header_value": form.add_header_value,
            "on_header_end": form.end_header,
            "on_part_data": form.add_data,
            "on_part_end": form.end_part,
            "on_end": form.end,
        },
        max_header_count=_MAX_PART_HEADERS,
        max_header_size=_MAX_PART_HEADER_BYTES,
    )
    try:
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise InvalidInput(f"the multipart form cannot be read: {error}") from error
    if not form.ended:
        raise InvalidInput("the multipart form ends without its closing boundary; send it whole")
    return _not_empty(form.fields)


class _Form:
    """Collects the parts of one multipart body in memory."""

    def __init__(self) -> None:
        self.fields: dict[str, Input] = {}
        self.ended = False
        self._num_parts = 0
        # for the life of one part
        self._headers: dict[bytes, bytes] = {}
        self._num_header_bytes = 0
        self._header_name = b""
        self._header_value = b""
        self._data = bytearray()

    def begin_part(self) -> None:
        self._headers, self._data = {}, bytearray()
        self._num_header_bytes = 0

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._num_header_bytes += len(self._header_name) + len(self._header_value)
        if self._num_header_bytes > _MAX_PART_HEADER_BYTES:
            raise InvalidInput(
                f"a part of the multipart form has headers of more than {_MAX_PART_HEADER_BYTES} "
                "bytes"
            )
        self._header_name = self._header_value = b""

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def end_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode(errors="replace")
        if not name:
            raise InvalidInput("a part of the multipart form has no name")
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise InvalidInput(f"the form has more than {_MAX_PARTS} parts")
        content_type = self._headers.get(b"content-type")
        self.fields[name] = Input(
            name=name,
            content_type=content_type.decode("latin-1") if content_type else None,
            body=memoryview(self._data),
        )

    def end(self) -> None:
        self.ended = True


def _not_empty(fields: dict[str, Input]) -> list[Input]:
    if not fields:
        raise InvalidInput("the form has no fields; name at least one, e.g. `data`")
    return list(fields.values())
