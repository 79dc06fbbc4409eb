"""From one sample of a request to a tensor that fits the model, or a message that says why not.

A sample is one request's input, without the batch dimension.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from flambeau.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.signature import TensorSpec

_DTYPES: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_MAX_EXACT: Final = 2**53  # below, float64 holds every integer


def tensor_from_json(value: object, spec: TensorSpec | None) -> torch.Tensor:
    """One sample from a JSON number or nested list.

    Args:
        value: What the JSON says.
        spec: The input it is for; without one any shape is float32.

    Raises:
        InvalidInput: It is not numbers, is ragged, or does not fit the dtype or shape.
    """
    where = "the sample" if spec is None else f"input {spec.name!r}"
    if not isinstance(value, (list, int, float)):
        raise InvalidInput(
            f"{where} is {_kind(value)}, expected a nested list of numbers{_shape_hint(spec)}"
        )
    try:
        array = _array_of_numbers(value)
        if array is None:
            array = np.array(value)
    except ValueError as error:  # numpy: inhomogeneous shape
        raise InvalidInput(
            f"{where} is ragged, or nested too deeply: lists on one level must be equally long"
            f"{_shape_hint(spec)}"
        ) from error
    dtype = torch.float32 if spec is None else _dtype(spec)
    kinds = "b" if dtype is torch.bool else "iuf"
    if array.size == 0 or array.dtype.kind not in kinds:
        raise InvalidInput(
            f"{where} must hold {'true and false' if kinds == 'b' else 'numbers'} only, "
            f"expected {_name(dtype)}{_shape_hint(spec)}"
        )
    if spec is not None:
        _check_shape(array.shape, spec)
    return _converted(array, dtype, where)


def tensor_from_bytes(body: bytearray, spec: TensorSpec) -> torch.Tensor:
    """One sample from raw little-endian numbers in C order.

    Args:
        body: The tensor shares its memory, so it must not change later.
        spec: The input it is for; one open dimension follows from the length.

    Raises:
        InvalidInput: The length does not fit the dtype and shape.
    """
    return _from_bytes(body, _layout(len(body), spec))


def batch_from_bytes(bodies: Sequence[bytearray], spec: TensorSpec) -> torch.Tensor:
    """Samples of equal lengths, stacked with the batch first; copies each once.

    Args:
        bodies: At least one, as `tensor_from_bytes` takes them.
        spec: The input they are for.

    Raises:
        InvalidInput: Their length does not fit the dtype and shape.
    """
    dtype, sizes = _layout(len(bodies[0]), spec)
    return _from_bytes(bytearray().join(bodies), (dtype, (len(bodies), *sizes)))


@lru_cache(maxsize=64)  # a model has few inputs, and clients send few lengths
def _layout(num_bytes: int, spec: TensorSpec) -> tuple[torch.dtype, tuple[int, ...]]:
    """What so many bytes hold, by dtype and shape.

    Raises:
        InvalidInput: They do not fit.
    """
    dtype = _dtype(spec)
    shape = spec.sample_shape
    num_open = shape.count(None)
    if num_open > 1:
        raise InvalidInput(
            f"input {spec.name!r} has {num_open} open dimensions in {_shape(shape)}, which raw "
            "bytes leave undecided; send it as JSON"
        )
    unit = math.prod(size for size in shape if size is not None) * dtype.itemsize
    fits = num_bytes == unit if num_open == 0 else num_bytes > 0 and num_bytes % unit == 0
    if not fits:
        raise InvalidInput(
            f"input {spec.name!r} has {num_bytes} bytes, expected "
            f"{'' if num_open == 0 else 'a multiple of '}{unit}: {_name(dtype)} of shape "
            f"{_shape(shape)}, little-endian"
        )
    return dtype, tuple(num_bytes // unit if size is None else size for size in shape)


def _from_bytes(body: bytearray, layout: tuple[torch.dtype, tuple[int, ...]]) -> torch.Tensor:
    dtype, sizes = layout
    if dtype is torch.bool:  # bytes other than 0 and 1 are no booleans
        return torch.frombuffer(body, dtype=torch.uint8).ne(0).view(sizes)
    return torch.frombuffer(body, dtype=dtype).view(sizes)


def _array_of_numbers(value: object) -> np.ndarray | None:
    """As `np.array` makes it of lists of numbers, in a third of the time; None of anything else.

    Equally long lists on each level of exactly JSON's numbers, which float64 holds unrounded.
    """
    if type(value) is not list or not value:
        return None
    shape = [len(value)]
    items: list[Any] = value
    while type(items[0]) is list:
        if set(map(type, items)) != {list} or len(set(map(len, items))) != 1 or not items[0]:
            return None
        shape.append(len(items[0]))
        items = list(chain.from_iterable(items))
    if type(items[0]) not in {float, int}:  # a list of booleans is none of numbers
        return None
    buffer = bytearray(8 * len(items))
    try:
        struct.pack_into(f"{len(items)}d", buffer, 0, *items)
    except (struct.error, OverflowError):
        return None
    array = np.frombuffer(buffer)
    if not -_MAX_EXACT < array.min() <= array.max() < _MAX_EXACT:
        return None
    return array.reshape(shape)


def _converted(array: np.ndarray, dtype: torch.dtype, where: str) -> torch.Tensor:
    """The array in the model's dtype; refused where that would change a number's magnitude."""
    if array.dtype.kind == "u":
        array = array.astype(np.uint64)  # torch does not know numpy's other name of it
    if dtype.is_floating_point:
        tensor = torch.from_numpy(array).to(dtype)
        limit = torch.finfo(dtype).max
        fits = bool(-limit <= array.min() and array.max() <= limit) or (
            bool(tensor.isfinite().all())  # a little more rounds down to it
        )
    else:
        fits = _is_integral(array, dtype)
        tensor = torch.from_numpy(array).to(dtype) if fits else torch.empty(0)
    if not fits:
        raise InvalidInput(f"{where} holds numbers that {_name(dtype)} cannot represent")
    return tensor


def _is_integral(array: np.ndarray, dtype: torch.dtype) -> bool:
    """Whether each number is whole and in the range of an integer dtype."""
    if dtype is torch.bool:
        return True
    limits = torch.iinfo(dtype)
    in_range = limits.min <= array.min().item() and array.max().item() <= limits.max
    return in_range and (array.dtype.kind != "f" or bool((array == np.trunc(array)).all()))


def _check_shape(got: tuple[int, ...], spec: TensorSpec) -> None:
    expected = spec.sample_shape
    if len(got) == len(expected) and all(
        size in {None, length} for size, length in zip(expected, got, strict=True)
    ):
        return
    raise InvalidInput(
        f"input {spec.name!r} has shape {_shape(got)}, expected {_shape(expected)}: one sample "
        "per request, without a batch dimension"
    )


def _dtype(spec: TensorSpec) -> torch.dtype:
    dtype = _DTYPES.get(spec.dtype)
    if dtype is None:
        raise InvalidInput(
            f"input {spec.name!r} is {spec.dtype}, which cannot be sent; its handler must make it"
        )
    return dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(sizes: tuple[int | None, ...]) -> str:
    inner = ", ".join("any" if size is None else str(size) for size in sizes)
    return f"({inner},)" if len(sizes) == 1 else f"({inner})"


def _shape_hint(spec: TensorSpec | None) -> str:
    return "" if spec is None else f" of shape {_shape(spec.sample_shape)}"


def _kind(value: object) -> str:
    names = {"str": "text", "dict": "an object", "NoneType": "null"}
    return names.get(type(value).__name__, type(value).__name__)
