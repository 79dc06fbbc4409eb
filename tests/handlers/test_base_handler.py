from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
import torch

from flambeau import torchscript
from flambeau.instance import ModelInstance
from flambeau.loading import load_handler
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.messages import (
    Failure,
    FailureKind,
    InferenceRequest,
    Input,
    LoadModel,
    Reply,
    RunBatch,
)
from flambeau.signature import SIGNATURE_PATH, Signature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("imports_are_undone")


class Sum(torch.nn.Module):
    """One number per sample."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.sum(-1)


class Two(torch.nn.Module):
    """Two inputs, two outputs."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, a * 2


def spec(name: str, *shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(None, *shape))


def serve(root: Path, model: torch.nn.Module, signature: Signature | None) -> ModelInstance:
    """An archive with this model, loaded."""
    (root / "MAR-INF").mkdir()
    manifest = Manifest(handler="base_handler", serialized_file="model.pt")
    (root / MANIFEST_PATH).write_text(manifest.to_json())
    torchscript.save(torchscript.script(model), root / "model.pt")
    if signature is not None:
        (root / SIGNATURE_PATH).write_text(signature.to_json())
    load = LoadModel("mine", "1", str(root), None, "cpu", 8, 1, 10_000, "0.1")
    return ModelInstance.load(load, load_entry_point=load_handler)


@pytest.fixture
def summing(tmp_path: Path) -> ModelInstance:
    return serve(tmp_path, Sum(), Signature(inputs=(spec("x", 3),), outputs=(spec("output_0"),)))


def json_input(value: object, *, name: str = "body") -> Input:
    return Input(name, "application/json", memoryview(json.dumps(value).encode()))


def raw(*numbers: float, name: str = "body", content_type: str | None = None) -> Input:
    return Input(name, content_type, memoryview(struct.pack(f"<{len(numbers)}f", *numbers)))


def answers(instance: ModelInstance, *requests: list[Input]) -> list[object]:
    """Parsed answers; failures as they are."""
    batch = RunBatch(1, [InferenceRequest("id", [], parts) for parts in requests])
    return [
        json.loads(bytes(result.body)) if isinstance(result, Reply) else result
        for result in instance.run(batch).results
    ]


@pytest.mark.parametrize(
    "part",
    [
        json_input([1, 2, 3]),
        json_input({"data": [1, 2, 3]}),
        json_input({"body": [1, 2, 3]}),
        json_input({"x": [1, 2, 3]}),
        json_input([1, 2, 3], name="data"),
        json_input([1, 2, 3], name="x"),
        raw(1, 2, 3),
        raw(1, 2, 3, content_type="application/octet-stream"),
        raw(1, 2, 3, name="data"),
        raw(1, 2, 3, name="x"),
    ],
    ids=lambda part: f"{part.name}-{part.content_type}-{len(part.body)}",
)
def test_one_sample_comes_in_many_forms(summing: ModelInstance, part: Input) -> None:
    assert answers(summing, [part]) == [6.0]


def test_raw_requests_of_one_length_are_answered_each(summing: ModelInstance) -> None:
    assert answers(summing, [raw(1, 2, 3)], [raw(4, 5, 6, name="x")]) == [6.0, 15.0]


def test_among_raw_requests_the_one_that_does_not_fit_fails_alone(summing: ModelInstance) -> None:
    for bad in (raw(1, 2), raw(), raw(1, 2, 3, content_type="image/png")):
        before, failure, after = answers(summing, [raw(1, 2, 3)], [bad], [raw(4, 5, 6)])
        assert (before, after) == (6.0, 15.0)
        assert isinstance(failure, Failure)


def test_among_raw_requests_the_one_that_fails_the_model_fails_alone(tmp_path: Path) -> None:
    class Picky(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            if bool((values < 0).any()):
                raise ValueError("below zero")
            return values.sum(-1)

    signature = Signature(inputs=(spec("x", 2),), outputs=(spec("output_0"),))
    instance = serve(tmp_path, Picky(), signature)
    before, failure, after = answers(instance, [raw(1, 2)], [raw(-1, 2)], [raw(3, 4)])
    assert (before, after) == (3.0, 7.0)
    assert failure == Failure(FailureKind.HANDLER_FAILED, "Prediction failed")


def test_a_subclass_that_decodes_sees_every_row(summing: ModelInstance, tmp_path: Path) -> None:
    (tmp_path / "doubling.py").write_text(
        "from flambeau.loading import load_builtin\n"
        "TensorHandler = load_builtin('base_handler').TensorHandler\n\n\n"
        "class Doubling(TensorHandler):\n"
        "    def decode(self, row, idx):\n"
        "        return tuple(2 * part for part in super().decode(row, idx))\n"
    )
    load = LoadModel("mine", "1", str(tmp_path), "doubling.py", "cpu", 8, 1, 10_000, "0.1")
    doubling = ModelInstance.load(load, load_entry_point=load_handler)
    assert answers(summing, [raw(1, 2, 3)], [raw(4, 5, 6)]) == [6.0, 15.0]
    assert answers(doubling, [raw(1, 2, 3)], [raw(4, 5, 6)]) == [12.0, 30.0]


def test_requests_of_different_forms_share_a_batch(summing: ModelInstance) -> None:
    assert answers(summing, [raw(1, 2, 3)], [json_input([4, 5, 6])]) == [6.0, 15.0]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (raw(1, 2), "8 bytes, expected 12"),
        (raw(), "body is empty"),
        (json_input([1, 2]), "shape (2,), expected (3,)"),
        (json_input([[1, 2, 3]]), "shape (1, 3), expected (3,)"),
        (json_input([1, [2], 3]), "ragged"),
        (json_input([1, "2", 3]), "numbers only"),
        (json_input([1, float("nan"), 3]), "body is not JSON"),
        (json_input("abc"), "is text"),
        (json_input(None), "is null"),
        (json_input({"y": [1, 2, 3]}), "the request has 'y', expected 'x' or 'data' or 'body'"),
        (Input("body", "application/json", memoryview(b"[1,")), "body is not JSON: "),
        (Input("body", "application/json", memoryview(b"")), "body is empty"),
        (raw(1, 2, 3, name="z"), "expected 'x' or 'data' or 'body'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sample_that_does_not_fit_fails_alone(
    summing: ModelInstance, part: Input, message: str
) -> None:
    before, failure, after = answers(
        summing, [json_input([1, 2, 3])], [part], [json_input([4, 5, 6])]
    )
    assert (before, after) == (6.0, 15.0)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.INVALID_INPUT
    assert message in failure.message


@pytest.mark.parametrize("content_type", ["image/png", "text/plain", "text/csv; charset=utf-8"])
def test_other_content_types_are_refused(summing: ModelInstance, content_type: str) -> None:
    (failure,) = answers(summing, [raw(1, 2, 3, content_type=content_type)])
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.UNSUPPORTED_CONTENT_TYPE
    assert content_type.partition(";")[0] in failure.message


def test_several_inputs_come_as_an_object_or_a_form(tmp_path: Path) -> None:
    signature = Signature(
        inputs=(spec("a", 2), spec("b", 2)), outputs=(spec("sum", 2), spec("double", 2))
    )
    instance = serve(tmp_path, Two(), signature)
    expected = {"sum": [4.0, 6.0], "double": [2.0, 4.0]}
    assert answers(
        instance,
        [json_input({"b": [3, 4], "a": [1, 2]})],
        [raw(1, 2, name="a"), json_input([3, 4], name="b")],
    ) == [expected, expected]
    (missing, list_) = answers(instance, [json_input({"a": [1, 2]})], [json_input([1, 2])])
    assert isinstance(missing, Failure)
    assert missing.message == "the request has 'a', expected 'b'"
    assert isinstance(list_, Failure)
    assert list_.message == "the request has 'body', expected 'a'"


def test_outputs_json_cannot_hold_are_null(summing: ModelInstance) -> None:
    assert answers(summing, [raw(1, float("inf"), 3)]) == [None]


def test_without_a_signature_lists_of_any_shape_are_answered_together(tmp_path: Path) -> None:
    instance = serve(tmp_path, Sum(), None)
    requests = [[json_input([1, 2])], [json_input([[1, 2], [3, 4]])], [json_input([5, 6])]]
    assert answers(instance, *requests) == [3.0, [3.0, 7.0], 11.0]


def test_without_a_signature_raw_bytes_are_refused(tmp_path: Path) -> None:
    instance = serve(tmp_path, Sum(), None)
    failure, answer = answers(instance, [raw(1, 2)], [json_input([1, 2])])
    assert isinstance(failure, Failure)
    assert "raw bytes have a meaning only with a signature" in failure.message
    assert answer == 3.0


def test_samples_the_model_cannot_take_do_not_fail_others(tmp_path: Path) -> None:
    instance = serve(tmp_path, torch.nn.Linear(2, 1), None)
    failure, answer = answers(instance, [json_input([1, 2, 3])], [json_input([1, 2])])
    assert failure == Failure(FailureKind.HANDLER_FAILED, "Prediction failed")
    assert isinstance(answer, list)


def test_a_model_that_drops_the_batch_dimension_is_told_so(tmp_path: Path) -> None:
    class Total(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.sum(0)

    instance = serve(tmp_path, Total(), None)
    (failure,) = answers(instance, [json_input([1, 2, 3])])
    assert isinstance(failure, Failure)
    assert "3 outputs for 1 samples" in failure.message
