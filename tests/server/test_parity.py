from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flambeau.errors import ArchiveError
from flambeau.parity import Samples, Tolerance, compare, named_outputs, read_samples
from flambeau.signature import PARITY_PATH, SAMPLES_PATH

if TYPE_CHECKING:
    from pathlib import Path

EXACT = Tolerance(atol=0.0, rtol=0.0)
NUMBERS = st.lists(st.floats(width=32), min_size=1, max_size=8)


@settings(deadline=None)  # torch's first operation takes a second
@given(NUMBERS)
def test_anything_agrees_with_itself_exactly(numbers: list[float]) -> None:
    tensor = torch.tensor([numbers], dtype=torch.float32)
    comparison = compare([tensor], [tensor.clone()], EXACT)
    assert comparison.agrees
    assert comparison.max_abs_error == comparison.mean_abs_error == 0.0


@settings(deadline=None)
@given(NUMBERS, NUMBERS, st.floats(0, 1), st.floats(0, 1))
def test_the_verdict_is_that_of_allclose(
    one: list[float], other: list[float], atol: float, rtol: float
) -> None:
    size = min(len(one), len(other))
    expected = torch.tensor([one[:size]], dtype=torch.float64)
    got = torch.tensor([other[:size]], dtype=torch.float64)
    comparison = compare([expected], [got], Tolerance(atol=atol, rtol=rtol))
    assert comparison.agrees == torch.allclose(got, expected, atol=atol, rtol=rtol, equal_nan=True)


def test_the_worst_sample_is_named_with_what_was_expected_and_got() -> None:
    expected = [torch.zeros(4, 3), torch.arange(8.0).reshape(4, 2)]
    got = [tensor.clone() for tensor in expected]
    got[0][1, 2] = 0.01
    got[1][3, 0] = 7.5
    comparison = compare(expected, got, Tolerance(atol=0.001))
    assert not comparison.agrees
    assert comparison.worst_sample == 3
    assert comparison.detail == "sample 3, output 1 at [0]: expected 6, got 7.5"
    assert comparison.max_abs_error == 1.5
    assert comparison.mean_abs_error == pytest.approx(1.51 / 20)


def test_relative_error_is_in_units_of_the_expected_number() -> None:
    comparison = compare([torch.tensor([[10.0]])], [torch.tensor([[11.0]])], Tolerance(rtol=0.2))
    assert comparison.agrees
    assert comparison.max_rel_error == pytest.approx(0.1)


def test_top1_agreement_counts_samples_with_the_same_largest_class() -> None:
    expected = torch.tensor([[0.1, 0.9], [0.9, 0.1], [0.4, 0.6], [0.6, 0.4]])
    got = torch.tensor([[0.1, 0.9], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert compare([expected], [got], EXACT).top1_agreement == 0.75
    assert compare([expected[:, 0]], [got[:, 0]], EXACT).top1_agreement is None


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, 1.0),
        (1.0, math.inf),
        (math.inf, -math.inf),
        (math.inf, math.nan),
    ],
)
def test_nan_and_infinity_agree_with_themselves_only(expected: float, got: float) -> None:
    tolerance = Tolerance(atol=1e30, rtol=1.0)
    comparison = compare([torch.tensor([[expected]])], [torch.tensor([[got]])], tolerance)
    assert not comparison.agrees
    assert comparison.max_abs_error == math.inf


@pytest.mark.parametrize(
    ("got", "says"),
    [
        ([], "expected 1 outputs, got 0"),
        ([torch.zeros(2, 4)], r"expected shape \[2, 3\], got \[2, 4\]"),
        ([torch.zeros(1, 3)], r"expected shape \[2, 3\], got \[1, 3\]"),
        ([torch.zeros(2, 3, dtype=torch.float64)], r"expected torch\.float32, got torch\.float64"),
    ],
)
def test_another_structure_does_not_agree(got: list[torch.Tensor], says: str) -> None:
    comparison = compare([torch.zeros(2, 3)], got, Tolerance(atol=1e30))
    assert not comparison.agrees
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(comparison.detail)


def test_whole_numbers_and_truth_values_are_compared() -> None:
    labels = torch.tensor([1, 2, 3])
    assert compare([labels, labels > 1], [labels, labels > 1], EXACT).agrees
    assert not compare([labels > 1], [labels > 2], EXACT).agrees


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_allows_everything_or_nothing_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="use a finite number of 0 or more"):
        Tolerance(atol=value)


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


def test_outputs_are_named_by_key_or_by_place() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert list(named_outputs(one)) == ["output_0"]
    assert list(named_outputs((one, two))) == ["output_0", "output_1"]
    assert list(named_outputs([one])) == ["output_0"]
    assert list(named_outputs(Pair(one, two))) == ["output_0", "output_1"]
    assert list(named_outputs({"boxes": one, "scores": two})) == ["boxes", "scores"]


@pytest.mark.parametrize("result", [None, 3, (), {}, [1, 2], {"a": [torch.zeros(1)]}])
def test_what_holds_no_tensors_is_refused_as_output(result: object) -> None:
    with pytest.raises(TypeError, match="return a tensor, or a tuple, list or dict of tensors"):
        named_outputs(result)


def test_recorded_samples_are_read_back(tmp_path: Path) -> None:
    images = torch.randn(3, 1, 4, 4)
    samples = Samples(
        inputs=(images, torch.arange(3)),
        outputs=(images, images.flatten(1)[:, ::2]),  # one is an input, one is not contiguous
        tolerance=Tolerance(atol=0.5, rtol=0.25),
    )
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / SAMPLES_PATH).write_bytes(samples.to_safetensors())
    (tmp_path / PARITY_PATH).write_text('{"tolerance": {"atol": 0.5, "rtol": 0.25}}')
    read = read_samples(tmp_path)
    assert read is not None
    assert len(read) == 3
    assert read.tolerance == samples.tolerance
    assert all(map(torch.equal, read.inputs, samples.inputs))
    assert all(map(torch.equal, read.outputs, samples.outputs))


def test_an_archive_may_bring_no_samples(tmp_path: Path) -> None:
    assert read_samples(tmp_path) is None


def test_damaged_samples_are_refused(tmp_path: Path) -> None:
    one = torch.zeros(2, 3)
    (tmp_path / "MAR-INF").mkdir()
    for content in (
        b"",
        b"garbage" * 10,
        Samples(inputs=(one,), outputs=(one[:1],), tolerance=EXACT).to_safetensors(),
        Samples(inputs=(one,), outputs=(), tolerance=EXACT).to_safetensors(),
        Samples(inputs=(one[:0],), outputs=(one[:0],), tolerance=EXACT).to_safetensors(),
    ):
        (tmp_path / SAMPLES_PATH).write_bytes(content)
        with pytest.raises(ArchiveError, match=r"MAR-INF/samples\.safetensors .* export"):
            read_samples(tmp_path)


def test_a_damaged_tolerance_is_refused(tmp_path: Path) -> None:
    one = torch.zeros(2, 3)
    samples = Samples(inputs=(one,), outputs=(one,), tolerance=EXACT)
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / SAMPLES_PATH).write_bytes(samples.to_safetensors())
    for text in ("", "[]", "{}", '{"tolerance": {"atol": 1e999, "rtol": 0}}'):
        (tmp_path / PARITY_PATH).write_text(text)
        with pytest.raises(ArchiveError, match="is no certificate"):
            read_samples(tmp_path)
