"""`MicroBatching`: parts of a batch go through the steps side by side."""

# ruff: noqa: ANN401  # rows are of any type

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flambeau.context import Context, RequestProcessor
from flambeau.handler import BaseHandler
from flambeau.handler_metrics import MetricsCache
from flambeau.torchserve.micro_batching import MicroBatching

TIMEOUT_S = 30


class Steps(BaseHandler):
    """Adds to its rows in every step, and notes what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[int]]] = []

    def preprocess(self, data: Any) -> Any:
        self.calls.append(("preprocess", data))
        return [row + 1 for row in data]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("inference", data))
        return [row * 10 for row in data]

    def postprocess(self, data: Any) -> list[Any]:
        self.calls.append(("postprocess", data))
        return [f"<{row}>" for row in data]

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int) -> list[Any]:
        return [("explained", tensor_data)]

    def describe_handle(self) -> str:
        return "described"


def context(**headers: str) -> Context:
    metrics = MetricsCache(model_name="mine", auto_detect=True)
    made = Context("mine", "/", {"model": {}}, 8, None, "0.1", metrics=metrics)
    made.request_processor = [RequestProcessor(headers)]
    return made


@pytest.fixture
def steps() -> Iterator[Steps]:
    handler = Steps()
    yield handler
    assert not [each for each in threading.enumerate() if each.name.startswith("inference")]


def test_answers_are_in_the_order_of_the_rows(steps: Steps) -> None:
    batching = MicroBatching(steps, 2, {"preprocess": 3, "inference": 2})
    assert batching(list(range(7)), context()) == [f"<{(row + 1) * 10}>" for row in range(7)]
    batching.shutdown()


def test_no_part_is_larger_than_asked_for(steps: Steps) -> None:
    batching = MicroBatching(steps, 3)
    batching(list(range(7)), context())
    batching.shutdown()
    assert [rows for step, rows in steps.calls if step == "preprocess"] == [
        [0, 1, 2],
        [3, 4, 5],
        [6],
    ]


def test_a_part_is_prepared_while_another_is_in_the_model() -> None:
    prepared = threading.Event()

    class Overlapping(Steps):
        def preprocess(self, data: Any) -> Any:
            if data == [1]:
                prepared.set()
            return data

        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            assert prepared.wait(TIMEOUT_S)
            return data

    batching = MicroBatching(Overlapping())
    assert batching.handle([0, 1]) == ["<0>", "<1>"]
    batching.shutdown()


def test_a_step_may_have_several_threads() -> None:
    together = threading.Barrier(2, timeout=TIMEOUT_S)

    class Meeting(Steps):
        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            together.wait()
            return data

    batching = MicroBatching(Meeting(), parallelism={"inference": 2})
    assert batching.handle([0, 1]) == ["<1>", "<2>"]
    batching.shutdown()


def test_the_first_error_reaches_the_caller_and_the_next_batch_is_answered() -> None:
    class Picky(Steps):
        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            if min(data) < 0:
                raise ValueError(f"refused: {data}")
            return data

    batching = MicroBatching(Picky())
    with pytest.raises(ValueError, match=r"refused: \[-4\]"):
        batching.handle([1, -5, -7])
    assert batching.handle([1]) == ["<2>"]
    batching.shutdown()


def test_a_step_can_ask_which_part_it_has() -> None:
    class Asking(Steps):
        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            return [batching.get_micro_batch_idx()]

    batching = MicroBatching(Asking())
    assert batching.handle([7, 7, 7]) == ["<0>", "<1>", "<2>"]
    assert batching.get_micro_batch_idx() is None
    batching.shutdown()


def test_parallelism_can_be_changed_between_batches(steps: Steps) -> None:
    batching = MicroBatching(steps)
    assert batching.parallelism == {"preprocess": 1, "inference": 1, "postprocess": 1}
    batching.handle([1])
    batching.parallelism = {"inference": 4}
    assert batching.parallelism == {"preprocess": 1, "inference": 4, "postprocess": 1}
    assert batching.handle([1, 2]) == ["<20>", "<30>"]
    batching.shutdown()


def test_wrong_numbers_are_refused(steps: Steps) -> None:
    with pytest.raises(ValueError, match="micro_batch_size is 0; use 1 or more"):
        MicroBatching(steps, 0)
    with pytest.raises(ValueError, match="parallelism of inference is 0"):
        MicroBatching(steps, parallelism={"inference": 0})
    with pytest.raises(ValueError, match="'infer' is no step; use preprocess, inference, post"):
        MicroBatching(steps).parallelism = {"infer": 2}


def test_explanations_and_descriptions_are_not_split(steps: Steps) -> None:
    batching = MicroBatching(steps)
    rows: list[Any] = [1, 2]
    assert batching(rows, context(explain="True")) == [("explained", [2, 3])]
    assert batching(rows, context(describe="True")) == ["described"]


def test_a_handler_may_put_it_in_the_place_of_its_handle(steps: Steps) -> None:
    vars(steps)["handle"] = MicroBatching(steps, 2)
    rows: list[Any] = [1, 2, 3]
    assert steps.handle(rows, context()) == ["<20>", "<30>", "<40>"]
    assert steps.handle(rows, context(describe="True")) == ["described"]
    vars(steps)["handle"].shutdown()


def test_the_time_of_a_batch_is_measured(steps: Steps) -> None:
    batching = MicroBatching(steps)
    given = context()
    batching([1, 2], given)
    batching.shutdown()
    assert isinstance(given.metrics, MetricsCache)
    assert [sample.name for sample in given.metrics.take()] == ["HandlerTime"]


def test_a_profiled_batch_is_not_split(
    steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    steps.profiler_args = {"on_trace_ready": None, "record_shapes": False}
    rows: list[Any] = [1, 2]
    assert MicroBatching(steps)(rows, context()) == ["<20>", "<30>"]
    assert [step for step, _ in steps.calls] == ["preprocess", "inference", "postprocess"]
