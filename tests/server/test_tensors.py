from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flambeau.errors import InvalidInput
from flambeau.signature import TensorSpec
from flambeau.tensors import batch_from_bytes, tensor_from_bytes, tensor_from_json


def spec(*sample_shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name="x", dtype=dtype, shape=(None, *sample_shape))


def test_nested_lists_become_the_models_dtype() -> None:
    tensor = tensor_from_json([[1, 2.5, 3], [4, 5, 6]], spec(2, 3))
    assert tensor.dtype is torch.float32
    assert tensor.tolist() == [[1.0, 2.5, 3.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "int8", "uint8"])
def test_numbers_become_any_numeric_dtype(dtype: str) -> None:
    tensor = tensor_from_json([1, 2, 3], spec(3, dtype=dtype))
    assert str(tensor.dtype) == f"torch.{dtype}"
    assert tensor.tolist() == [1, 2, 3]


def test_truth_values_become_booleans() -> None:
    assert tensor_from_json([True, False], spec(2, dtype="bool")).tolist() == [True, False]


def test_a_sample_may_be_one_number() -> None:
    assert tensor_from_json(3, spec(dtype="int64")).shape == ()


def test_an_open_dimension_takes_any_length() -> None:
    assert tensor_from_json([[1, 2]] * 7, spec(None, 2)).shape == (7, 2)


def test_without_a_signature_any_shape_is_float32() -> None:
    tensor = tensor_from_json([[1], [2]], None)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (2, 1))


@pytest.mark.parametrize(
    ("value", "wanted", "message"),
    [
        ([1, 2], spec(3), r"input 'x' has shape \(2,\), expected \(3,\): one sample per request"),
        ([[1, 2, 3]], spec(3), r"has shape \(1, 3\), expected \(3,\)"),
        ([[1], [2]], spec(None, 2), r"has shape \(2, 1\), expected \(any, 2\)"),
        ([[1, 2], [3]], spec(2, 2), "is ragged.* of shape \\(2, 2\\)"),
        ([1, "2"], spec(2), "must hold numbers only, expected float32"),
        ([1, None], spec(2), "must hold numbers only"),
        ([{"a": 1}], spec(1), "must hold numbers only"),
        ([True, False], spec(2), "must hold numbers only"),
        ([1, 0], spec(2, dtype="bool"), "must hold true and false only"),
        ([], spec(0), "must hold numbers only"),
        ("text", spec(1), "is text, expected a nested list of numbers"),
        ({"a": 1}, spec(1), "is an object"),
        (None, spec(1), "is null"),
        ([1.5], spec(1, dtype="int64"), "numbers that int64 cannot represent"),
        ([300], spec(1, dtype="uint8"), "numbers that uint8 cannot represent"),
        ([-1], spec(1, dtype="uint8"), "numbers that uint8 cannot represent"),
        ([2**63], spec(1, dtype="int64"), "numbers that int64 cannot represent"),
        ([2**70], spec(1), "must hold numbers only"),
        ([1e39], spec(1), "numbers that float32 cannot represent"),
        ([70_000], spec(1, dtype="float16"), "numbers that float16 cannot represent"),
        ([1, [2]], None, "the sample is ragged"),
        ([1], spec(1, dtype="complex64"), "is complex64, which cannot be sent"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected(
    value: object, wanted: TensorSpec | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensor_from_json(value, wanted)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
        max_leaves=8,
    ),
    dtype=st.sampled_from(["float32", "int64", "uint8", "bool", "bfloat16"]),
)
def test_any_json_is_a_tensor_of_the_right_shape_or_refused(value: object, dtype: str) -> None:
    try:
        tensor = tensor_from_json(value, spec(None, dtype=dtype))
    except InvalidInput:
        return
    assert tensor.ndim == 1
    assert str(tensor.dtype) == f"torch.{dtype}"


def test_a_list_nested_deeper_than_numpy_goes_is_refused() -> None:
    value: object = 1.0
    for _ in range(100):
        value = [value]
    with pytest.raises(InvalidInput):
        tensor_from_json(value, spec(1))


@given(
    rows=st.integers(1, 3).flatmap(
        lambda size: st.lists(
            st.lists(
                st.integers(-(2**66), 2**66) | st.floats(width=32, allow_nan=False),
                min_size=size,
                max_size=size,
            ),
            min_size=1,
            max_size=3,
        )
    )
)
def test_numbers_arrive_as_close_as_the_dtype_allows(rows: list[list[float]]) -> None:
    try:
        tensor = tensor_from_json(rows, spec(None, None, dtype="float64"))
    except InvalidInput:
        return  # larger than any integer that numpy knows
    assert tensor.tolist() == [[float(number) for number in row] for row in rows]


def test_a_batch_of_raw_bytes_is_stacked() -> None:
    bodies = [bytearray(struct.pack("<4h", *range(at, at + 4))) for at in (0, 4)]
    batch = batch_from_bytes(bodies, spec(2, 2, dtype="int16"))
    assert batch.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_raw_bytes_are_little_endian_numbers_in_c_order() -> None:
    tensor = tensor_from_bytes(bytearray(struct.pack("<6f", 1, 2, 3, 4, 5, 6)), spec(2, 3))
    assert tensor.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_raw_bytes_settle_one_open_dimension() -> None:
    tensor = tensor_from_bytes(
        bytearray(struct.pack("<6q", *range(6))), spec(None, 2, dtype="int64")
    )
    assert tensor.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_raw_booleans_are_true_unless_zero() -> None:
    assert tensor_from_bytes(bytearray([0, 1, 7]), spec(3, dtype="bool")).tolist() == [
        *(False, True, True)
    ]


@pytest.mark.parametrize(
    ("num_bytes", "wanted", "message"),
    [
        (11, spec(3), r"has 11 bytes, expected 12: float32 of shape \(3,\), little-endian"),
        (13, spec(3), "has 13 bytes, expected 12"),
        (0, spec(None, 3), r"has 0 bytes, expected a multiple of 12: float32 of shape \(any, 3\)"),
        (13, spec(None, 3), "has 13 bytes, expected a multiple of 12"),
        (12, spec(None, None), "2 open dimensions in .*; send it as JSON"),
    ],
)
def test_a_wrong_number_of_bytes_is_refused(
    num_bytes: int, wanted: TensorSpec, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensor_from_bytes(bytearray(num_bytes), wanted)
