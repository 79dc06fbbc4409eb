"""The Open Inference Protocol's tensors: typed lists and raw bytes, to and from JSON values.

Raw bytes are little-endian in C order; each element of BYTES has its length before it.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flambeau.errors import InvalidInput
from flambeau.torchserve.grpc.protos.open_inference_pb2 import InferTensorContents

_BYTES, _BF16 = "BYTES", "BF16"


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one datatype is sent.

    Attributes:
        contents: Its list in `InferTensorContents`; None where it travels raw only.
        code: `struct`'s letter for an element.
    """

    contents: str | None
    code: str


_KINDS: Final[Mapping[str, _Kind]] = {
    "BOOL": _Kind("bool_contents", "?"),
    "INT8": _Kind("int_contents", "b"),
    "INT16": _Kind("int_contents", "h"),
    "INT32": _Kind("int_contents", "i"),
    "INT64": _Kind("int64_contents", "q"),
    "UINT8": _Kind("uint_contents", "B"),
    "UINT16": _Kind("uint_contents", "H"),
    "UINT32": _Kind("uint_contents", "I"),
    "UINT64": _Kind("uint64_contents", "Q"),
    "FP16": _Kind(None, "e"),
    _BF16: _Kind(None, "H"),
    "FP32": _Kind("fp32_contents", "f"),
    "FP64": _Kind("fp64_contents", "d"),
    _BYTES: _Kind("bytes_contents", "s"),
}


def data_from_contents(
    name: str, datatype: str, shape: Sequence[int], contents: InferTensorContents
) -> list[Any]:
    """A typed tensor's elements as JSON has them: BYTES are base64.

    Raises:
        InvalidInput: A datatype that is unknown or raw only, numbers JSON has not, or fewer or more
            than the shape says.
    """
    kind = _kind(name, datatype)
    if kind.contents is None:
        raise InvalidInput(f"input {name!r} is {datatype}; send it in raw_input_contents")
    elements = getattr(contents, kind.contents)
    if datatype != _BYTES:  # whose shape TorchServe's clients do not mean
        _check_count(name, datatype, shape, len(elements))
    return _json_elements(name, datatype, elements)


def data_from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> list[Any]:
    """A raw tensor's elements as JSON has them: BYTES are base64.

    Raises:
        InvalidInput: The length does not fit the datatype and shape, or as above.
    """
    kind = _kind(name, datatype)
    if datatype == _BYTES:
        elements: Sequence[Any] = list(_split_bytes(name, raw))
    else:
        size = struct.calcsize(f"<{kind.code}")
        if len(raw) % size:
            raise InvalidInput(f"input {name!r} has {len(raw)} bytes, no multiple of {size}")
        elements = struct.unpack(f"<{len(raw) // size}{kind.code}", raw)
        elements = _from_bf16(elements) if datatype == _BF16 else elements
    _check_count(name, datatype, shape, len(elements))
    return _json_elements(name, datatype, elements)


def contents_from_data(datatype: str, data: object) -> InferTensorContents:
    """A typed tensor of what a handler answered; nested lists are flattened.

    Raises:
        TypeError, ValueError: The elements do not fit the datatype, or it has no typed form.
    """
    kind = _KINDS.get(datatype)
    if kind is None or kind.contents is None:
        raise ValueError(f"datatype {datatype!r} has no typed contents")
    contents = InferTensorContents()
    getattr(contents, kind.contents).extend(_elements(datatype, data))
    return contents


def raw_from_data(datatype: str, data: object) -> bytes:
    """A raw tensor of what a handler answered; nested lists are flattened.

    Raises:
        TypeError, ValueError: The elements do not fit the datatype.
    """
    kind = _KINDS.get(datatype)
    if kind is None:
        raise ValueError(f"datatype {datatype!r} is unknown")
    elements = _elements(datatype, data)
    if datatype == _BYTES:
        return b"".join(struct.pack("<I", len(each)) + each for each in elements)
    if datatype == _BF16:
        elements = [_to_bf16(float(each)) for each in elements]
    try:
        return struct.pack(f"<{len(elements)}{kind.code}", *elements)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{datatype}: {error}") from error


def _check_count(name: str, datatype: str, shape: Sequence[int], count: int) -> None:
    if count != math.prod(shape) or any(size < 0 for size in shape):
        raise InvalidInput(
            f"input {name!r} has {count} elements, expected {math.prod(shape)}: {datatype} of "
            f"shape {list(shape[:32])}"
        )


def _kind(name: str, datatype: str) -> _Kind:
    kind = _KINDS.get(datatype)
    if kind is None:
        raise InvalidInput(f"input {name!r} is {datatype!r}; use one of {', '.join(_KINDS)}")
    return kind


def _json_elements(name: str, datatype: str, elements: Sequence[Any]) -> list[Any]:
    if datatype == _BYTES:
        return [base64.b64encode(each).decode() for each in elements]
    if datatype.startswith(("FP", "BF")) and not all(map(math.isfinite, elements)):
        raise InvalidInput(f"input {name!r} holds NaN or infinity, which JSON cannot carry")
    return list(elements)


def _split_bytes(name: str, raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        begin = at + 4
        end = begin + int.from_bytes(raw[at:begin], "little")
        if begin > len(raw) or end > len(raw):
            raise InvalidInput(
                f"input {name!r} ends within an element; each has its length before it, as four "
                "little-endian bytes"
            )
        yield raw[begin:end]
        at = end


def _elements(datatype: str, data: object) -> list[Any]:
    """A handler's data, flat; text of BYTES as UTF-8."""
    flat = list(_flat(data))
    if datatype == _BYTES:
        return [each.encode() if isinstance(each, str) else _refuse(each) for each in flat]
    return flat


def _flat(data: object) -> Iterator[Any]:
    if not isinstance(data, list):
        raise TypeError("data is not a list")
    for each in data:
        if isinstance(each, list):
            yield from _flat(each)
        else:
            yield each


def _refuse(value: object) -> bytes:
    raise TypeError(f"{value!r} is not text")


def _from_bf16(halves: Sequence[int]) -> Sequence[float]:
    """Numbers of which only the upper half of a float32 was sent."""
    words = struct.pack(f"<{len(halves)}I", *(half << 16 for half in halves))
    return struct.unpack(f"<{len(halves)}f", words)


def _to_bf16(value: float) -> int:
    """The upper half of a float32, rounded to the nearest, ties to even."""
    (word,) = struct.unpack("<I", struct.pack("<f", value))
    rounded: int = word + 0x7FFF + (word >> 16 & 1)
    return rounded >> 16 & 0xFFFF
