"""From a request to what handlers read, and from what they return to an answer.

The rules are TorchServe's: content types decide how inputs are decoded, Python types how outputs
are encoded. Two differences: NaN and infinity, which JSON cannot hold, arrive undecoded and leave
as null; and a JSON answer says so in its content type.
"""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import torch

from flambeau.errors import HandlerFailed, InvalidInput, UnsupportedContentType
from flambeau.failure_text import sendable, text_of
from flambeau.media_type import media_type
from flambeau.messages import Failure, FailureKind, Reply

if TYPE_CHECKING:
    from collections.abc import Collection

    from flambeau.context import RequestProcessor
    from flambeau.messages import InferenceRequest, Input

Row: TypeAlias = dict[str, Any]
"""One request as a handler reads it: decoded inputs by name."""

_NUMBERS: Final = {float, int}
_SCALARS: Final = {*_NUMBERS, str, bool, type(None)}

_json = msgspec.json.Decoder()
_encode_compact = msgspec.json.Encoder().encode


def decode_request(request: InferenceRequest, *, as_sent: bool = False) -> Row:
    """Decode one request's inputs by their content types; of equal names the last counts.

    `application/json` becomes what it says, `text/*` a `str`, all else a `bytearray`. What does not
    decode stays a `bytearray`, for the handler to judge; `as_sent` leaves all of it so.
    """
    if as_sent:
        return {part.name: bytearray(part.body) for part in request.inputs}
    return {part.name: _decode_input(part) for part in request.inputs}


def _decode_input(part: Input) -> object:
    content_type = media_type(part.content_type)
    try:
        if content_type == "application/json":
            return decode_json(part.body)
        if content_type.startswith("text/"):
            return str(part.body, "utf-8")
    except ValueError:
        pass
    return bytearray(part.body)


def decode_json(body: bytes | bytearray | memoryview) -> object:
    """Decode JSON as RFC 8259 has it: UTF-8, finite numbers.

    Raises:
        ValueError: It is not; the message says why and where.
    """
    try:
        document: object = _json.decode(body)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error
    return document


def encode_output(
    output: object, processor: RequestProcessor, *, max_response_bytes: int
) -> Reply | Failure:
    """Encode what a handler returned for one request.

    Args:
        output: Bytes and text go out as they are, a tensor as `torch.save` writes it, an
            `InvalidInput`, `UnsupportedContentType` or `HandlerFailed` as that request's failure,
            anything else as JSON.
        processor: Holds the status and headers the handler chose.
        max_response_bytes: A longer answer becomes a failure.

    Raises:
        HandlerFailed: The output is none of these.
    """
    match output:
        case InvalidInput():
            return Failure(FailureKind.INVALID_INPUT, text_of(output))
        case UnsupportedContentType():
            return Failure(FailureKind.UNSUPPORTED_CONTENT_TYPE, text_of(output))
        case HandlerFailed():
            return Failure(FailureKind.HANDLER_FAILED, text_of(output), output.status)
        case _:
            body, content_type = _encode(output)
    if len(body) > max_response_bytes:
        return Failure(
            FailureKind.HANDLER_FAILED,
            f"the answer has {len(body)} bytes, over max_response_size {max_response_bytes}",
        )
    headers = [
        (sendable(key), sendable(value)) for key, value in processor.get_response_headers().items()
    ]
    if content_type is not None and not any(key.lower() == "content-type" for key, _ in headers):
        headers.append(("content-type", content_type))
    phrase = processor.get_response_status_phrase()
    return Reply(
        status=processor.get_response_status_code(),
        phrase=sendable(phrase) if phrase else "",
        headers=headers,
        body=body,
    )


def _encode(output: object) -> tuple[memoryview, str | None]:
    """The body, and the content type when the encoding implies one."""
    try:
        match output:
            case list() | dict():
                return memoryview(encode_json(output)), "application/json"
            case bytes() | bytearray():
                return memoryview(output), None
            case memoryview():
                return output.cast("B"), None
            case str():
                return memoryview(output.encode()), None
            case torch.Tensor():
                file = io.BytesIO()
                torch.save(output, file)
                return file.getbuffer(), None
            case _:
                return memoryview(encode_json(output)), "application/json"
    except (TypeError, ValueError, RecursionError) as error:
        raise HandlerFailed("Unsupported model output data type.") from error


def encode_json(value: object) -> bytes:
    """JSON as `json.dumps(value, indent=2)` writes it, with null for NaN and infinity.

    Plain values take a path that is 18 times as fast, and lists of numbers one that is 30 times as
    fast; they write 0.00001 for 1e-05, 1e-6 for 1e-06 and 1e16 for 1e+16, the same numbers.

    Raises:
        TypeError: Something in it has no JSON form.
        ValueError: It holds itself.
        RecursionError: It is nested too deeply.
    """
    try:
        if type(value) is list and value and set(map(type, value)) <= _NUMBERS:
            # no text in it, so every comma is one between items
            return b"[\n  %b\n]" % _encode_compact(value)[1:-1].replace(b",", b",\n  ")
        if _is_plain(value):
            text = msgspec.json.format(_encode_compact(value), indent=2)
            if text.isascii():
                return text
    except OverflowError:  # an integer of more than 64 bits
        pass
    json.dumps(value)  # says no before `_finite` follows a circle or passes garbage on
    return json.dumps(_finite(value), indent=2, allow_nan=False).encode()


def _is_plain(value: object) -> bool:
    """Whether it is made of exactly JSON's types, so that two encoders agree on it."""
    match value:
        case dict():
            return set(map(type, value)) <= {str} and _are_plain(value.values())
        case list() | tuple():
            return _are_plain(value)
        case _:
            return type(value) in _SCALARS


def _are_plain(values: Collection[object]) -> bool:
    return set(map(type, values)) <= _SCALARS or all(map(_is_plain, values))


def _finite(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
