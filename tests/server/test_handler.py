from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flambeau import torchscript
from flambeau.context import Context
from flambeau.errors import ArchiveError, HandlerFailed
from flambeau.handler import BaseHandler
from flambeau.handler_metrics import MetricsCache
from flambeau.instance import ModelInstance
from flambeau.loading import EntryPoint
from flambeau.messages import InferenceRequest, Input, LoadModel, Reply, RunBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flambeau.codec import Row


def context(root: Path, **model: str | None) -> Context:
    return Context("mine", str(root), {"model": model}, 4, None, "0.1")


def request(headers: list[tuple[str, str]] | None = None) -> InferenceRequest:
    return InferenceRequest("id", headers or [], [Input("body", "text/plain", memoryview(b"x"))])


def program(root: Path) -> str:
    """Save a TorchScript program that doubles."""
    double = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        double.weight.fill_(2.0)
    torchscript.save(torchscript.trace(double, [torch.zeros(2, 1)]), root / "model.pt")
    return "model.pt"


def test_a_torchscript_program_is_loaded_and_run(tmp_path: Path) -> None:
    handler = BaseHandler()
    handler.initialize(context(tmp_path, serializedFile=program(tmp_path)))
    assert handler.initialized
    assert handler.model_pt_path == str(tmp_path / "model.pt")
    assert handler.get_device() == torch.device("cpu")
    rows: Sequence[Any] = [[1.0], [2.5]]
    assert handler.handle(rows, context(tmp_path)) == [[2.0], [5.0]]


@pytest.mark.parametrize("weights", [None, "model.so", "model.bin", "missing.pt"])
def test_an_archive_without_a_model_we_read_is_refused(tmp_path: Path, weights: str | None) -> None:
    for name in ("model.so", "model.bin"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ArchiveError, match="No model weights could be loaded"):
        BaseHandler().initialize(context(tmp_path, serializedFile=weights))


class Tokens(dict[str, torch.Tensor]):
    """What a tokenizer makes, of another library."""

    def to(self, device: torch.device) -> dict[str, str]:
        return dict.fromkeys(self, str(device))


def test_what_can_be_moved_to_the_models_device_is_moved() -> None:
    def model(*given: object) -> tuple[object, ...]:
        return given

    handler = BaseHandler()
    handler.device = torch.device("meta")
    handler.model = model
    tensor = torch.ones(1)
    one, many, tokens, text = handler.inference(tensor, [tensor] * 2, Tokens(ids=tensor), "text")
    assert [part.device.type for part in (one, *many)] == ["meta"] * 3
    assert (tokens, text) == ({"ids": "meta"}, "text")


class Explaining(BaseHandler):
    """Answers an explanation with the request it was asked about."""

    def preprocess(self, data: Sequence[Row]) -> torch.Tensor:
        return torch.ones(len(data), 1)

    def get_insights(self, tensor_data: torch.Tensor, raw_data: object, target: int) -> list[Any]:
        return [{"shape": list(tensor_data.shape), "raw": raw_data, "target": target}]

    def describe_handle(self) -> str:
        return "a description"


def test_an_explanation_is_asked_for_by_header(tmp_path: Path) -> None:
    asked = context(tmp_path)
    asked.begin_batch([request([("explain", "True")])])
    rows: list[Row] = [{"body": "x", "target": "2"}]
    expected = {"shape": [1, 1], "raw": "x", "target": 2}
    assert Explaining().handle(rows, asked) == [expected]


def test_an_explanation_changes_no_other_clients_answer(tmp_path: Path) -> None:
    handler = Explaining()
    handler.model = torch.nn.Identity()
    entry_point = EntryPoint(call=handler.handle, handler=handler, context=context(tmp_path))
    load = LoadModel("mine", "1", str(tmp_path), None, "cpu", 4, 1, 1_000, "0.1")
    explained = request([("explain", "True")])
    batch = RunBatch(1, [explained, request(), explained, request()])
    results = ModelInstance(entry_point, None, load=load).run(batch).results
    bodies = [json.loads(bytes(r.body)) for r in results if isinstance(r, Reply)]
    explanation = {"shape": [1, 1], "raw": "x", "target": 0}
    assert bodies == [explanation, [1.0], explanation, [1.0]]


@pytest.mark.parametrize(
    ("target", "expected"),
    [(None, 0), ("", 0), ("3", 3), (bytearray(b"4"), 4), (5, 5), ("cat", "cat"), ([1, 2], [1, 2])],
)
def test_a_class_to_explain_comes_in_many_forms(
    tmp_path: Path, target: object, expected: object
) -> None:
    asked = context(tmp_path)
    asked.begin_batch([request([("explain", "True")])])
    (answer,) = Explaining().handle([{"body": "x", "target": target}], asked)
    assert answer["target"] == expected


class Loading(BaseHandler):
    """Has a method that many handlers have."""

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self._load_model()

    def _load_model(self) -> None:
        self.model = torch.nn.Identity()


def test_a_handler_may_have_methods_of_its_own(tmp_path: Path) -> None:
    handler = Loading()
    handler.initialize(context(tmp_path, serializedFile=program(tmp_path)))
    rows: list[Any] = [[1.0], [2.0]]
    assert handler.handle(rows, context(tmp_path)) == [[1.0], [2.0]]


class Hasty(BaseHandler):
    """Does not call the constructor above it, as many handlers do not."""

    def __init__(self) -> None:
        self.model = torch.nn.Identity()
        self.device = torch.device("cpu")


def test_a_handler_may_have_a_constructor_of_its_own(tmp_path: Path) -> None:
    rows: list[Any] = [[1.0], [2.0]]
    assert Hasty().handle(rows, context(tmp_path)) == [[1.0], [2.0]]


def test_a_handler_without_insights_says_so(tmp_path: Path) -> None:
    asked = context(tmp_path)
    asked.begin_batch([request([("explain", "True")])])
    rows: list[Any] = [[1.0]]
    with pytest.raises(HandlerFailed, match="BaseHandler has no get_insights"):
        BaseHandler().handle(rows, asked)


def measured(root: Path, *, yaml: dict[str, Any] | None = None) -> Context:
    """A context whose metrics are kept."""
    metrics = MetricsCache(auto_detect=True)
    return Context("mine", str(root), {}, 4, None, "0.1", metrics=metrics, model_yaml_config=yaml)


def names_of(context: Context) -> set[str]:
    assert isinstance(context.metrics, MetricsCache)
    samples = context.metrics.take()
    assert all(sample.value >= 0 for sample in samples)
    return {sample.name for sample in samples}


def test_a_batchs_time_is_measured(tmp_path: Path) -> None:
    handler, asked = BaseHandler(), measured(tmp_path)
    handler.model = torch.nn.Identity()
    rows: list[Any] = [[1.0]]
    assert handler.handle(rows, asked) == [[1.0]]
    assert names_of(asked) == {"HandlerTime"}


def test_steps_are_measured_when_the_yaml_asks_for_it(tmp_path: Path) -> None:
    handler = BaseHandler()
    handler.model = torch.nn.Identity()
    rows: list[Any] = [[1.0]]
    asked = measured(tmp_path, yaml={"handler": {"profile": True}})
    handler.handle(rows, asked)
    steps = {f"ts_handler_{step}" for step in ("preprocess", "inference", "postprocess")}
    assert names_of(asked) == {"HandlerTime", *steps}


def test_a_batch_is_traced_when_the_environment_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "")  # any value will do
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handler = BaseHandler()
    handler.model = torch.nn.Linear(1, 1)
    rows: list[Any] = [[1.0]]
    handler.handle(rows, context(tmp_path))
    (trace,) = (tmp_path / "pytorch_profiler" / "mine").iterdir()
    named = {event.get("name") for event in json.loads(trace.read_bytes())["traceEvents"]}
    assert {"preprocess", "inference", "postprocess", "aten::linear"} <= named


def test_a_trace_may_be_taken_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "true")
    traces: list[torch.profiler.profile] = []
    handler = BaseHandler()
    handler.model = torch.nn.Identity()
    handler.profiler_args = {"on_trace_ready": traces.append}
    rows: list[Any] = [[1.0]]
    handler.handle(rows, context(tmp_path))
    assert len(traces) == 1


def test_a_description_is_asked_for_by_header(tmp_path: Path) -> None:
    asked = context(tmp_path)
    asked.begin_batch([request([("describe", "True")])])
    assert Explaining().handle([{"body": "x"}], asked) == ["a description"]


def test_header_names_are_looked_up_as_they_were_spelt(tmp_path: Path) -> None:
    asked = context(tmp_path)
    asked.begin_batch([request(), request([("X-Key", "1"), ("X-Key", "2"), ("body", "mine")])])
    assert asked.get_request_header(1, "X-Key") == "2"
    assert asked.get_request_header(1, "x-key") is None
    assert asked.get_all_request_header(0) == {"body": {"content-type": "text/plain"}}
    assert asked.get_request_header(1, "body") == "mine"


def test_a_header_in_lower_case_is_found_by_its_usual_spelling(tmp_path: Path) -> None:
    asked = context(tmp_path)
    asked.begin_batch([request([("x-key", "1")])])
    assert asked.get_request_header(0, "X-Key") == "1"
    assert asked.get_request_header(0, "X-Other") is None


def test_a_context_can_be_told_about_answers_while_the_model_loads(tmp_path: Path) -> None:
    loading = context(tmp_path)
    loading.set_response_status(500, "Too early", 0)
    loading.set_all_response_status(500)
    loading.set_response_content_type(0, "text/html")
    assert loading.get_request_id(0) is None


def test_a_status_that_cannot_end_a_response_is_refused(tmp_path: Path) -> None:
    answering = context(tmp_path)
    answering.begin_batch([request()])
    with pytest.raises(ValueError, match="response status is 100; use a whole number from 200"):
        answering.set_response_status(100)


def test_a_context_says_what_was_set(tmp_path: Path) -> None:
    answering = context(tmp_path)
    answering.begin_batch([request(), request()])
    answering.set_all_response_status(202, "Accepted")
    answering.set_response_content_type(1, "text/csv")
    assert answering.get_response_status(0) == (202, "Accepted")
    assert answering.get_response_content_type(0) is None
    assert answering.get_response_content_type(1) == "text/csv"
    assert answering.get_response_headers(1) == {"content-type": "text/csv"}
