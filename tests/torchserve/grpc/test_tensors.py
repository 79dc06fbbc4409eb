"""Tensors between bytes, typed lists and JSON."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flambeau.torchserve.grpc.tensors import (
    contents_from_data,
    data_from_contents,
    data_from_raw,
    raw_from_data,
)

INTEGERS = {
    "INT8": (-(2**7), 2**7 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "INT64": (-(2**63), 2**63 - 1),
    "UINT8": (0, 2**8 - 1),
    "UINT16": (0, 2**16 - 1),
    "UINT32": (0, 2**32 - 1),
    "UINT64": (0, 2**64 - 1),
}
FLOATS = {"FP16": 16, "FP32": 32, "FP64": 64}


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """A datatype and elements of it."""
    datatype = draw(st.sampled_from([*INTEGERS, *FLOATS, "BOOL"]))
    if datatype == "BOOL":
        return datatype, draw(st.lists(st.booleans()))
    if datatype in INTEGERS:
        low, high = INTEGERS[datatype]
        return datatype, draw(st.lists(st.integers(low, high)))
    width: Any = FLOATS[datatype]
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return datatype, draw(st.lists(numbers))


@given(tensors())
def test_numbers_survive_the_way_there_and_back(tensor: tuple[str, list[Any]]) -> None:
    datatype, data = tensor
    raw = raw_from_data(datatype, data)
    assert data_from_raw("x", datatype, [len(data)], raw) == data
    if datatype != "FP16":
        contents = contents_from_data(datatype, data)
        assert data_from_contents("x", datatype, [len(data)], contents) == data


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bfloat16_is_rounded_as_torch_does(numbers: list[float]) -> None:
    rounded = torch.tensor(numbers, dtype=torch.float32).to(torch.bfloat16)
    assert raw_from_data("BF16", numbers) == bytes(rounded.view(torch.uint8).tolist())
    if bool(rounded.isfinite().all()):
        raw = raw_from_data("BF16", numbers)
        assert data_from_raw("x", "BF16", [len(numbers)], raw) == rounded.tolist()


@given(st.lists(st.text()))
def test_text_goes_out_as_utf_8(words: list[str]) -> None:
    encoded = [word.encode() for word in words]
    assert list(contents_from_data("BYTES", words).bytes_contents) == encoded
    lengths = b"".join(struct.pack("<I", len(each)) + each for each in encoded)
    assert raw_from_data("BYTES", words) == lengths


def test_nested_lists_are_flattened() -> None:
    contents = contents_from_data("INT64", [[1, 2], [3, [4]]])
    assert list(contents.int64_contents) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT32", [0.5]),
        ("INT32", [2**31]),
        ("UINT8", ["1"]),
        ("BYTES", [1]),
        ("FP32", "no list"),
        ("FP8", [1]),
    ],
)
def test_elements_that_do_not_fit_are_an_error(datatype: str, data: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        contents_from_data(datatype, data)
    with pytest.raises((TypeError, ValueError)):
        raw_from_data(datatype, data)
