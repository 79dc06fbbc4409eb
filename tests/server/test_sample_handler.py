from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from flambeau.context import Context
from flambeau.errors import HandlerFailed, InvalidInput, RequestError
from flambeau.messages import InferenceRequest, Input
from flambeau.sample_handler import Sample, SampleHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.codec import Row


class Roots(SampleHandler):
    """Square roots; counts the calls of its model and cannot bear what is below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.model = self.roots

    def decode(self, row: Row, idx: int) -> Sample:
        value = row["body"]
        if not isinstance(value, list):
            raise InvalidInput(f"{value!r} is no list")
        return (torch.tensor(value),)

    def roots(self, numbers: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(numbers))
        if bool((numbers == -7.0).any()):
            raise InvalidInput("seven may not be negative")
        if bool((numbers < 0).any()):
            raise ValueError("a root of what is below zero")
        return numbers.sqrt()

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        answers: list[Any] = data.tolist()
        return answers


def ask(handler: SampleHandler, *bodies: object) -> list[Any]:
    context = Context("mine", ".", {}, 8, None, "0.1")
    part = Input("body", None, memoryview(b""))
    context.begin_batch([InferenceRequest("id", [], [part]) for _ in bodies])
    return handler.handle([{"body": body} for body in bodies], context)


def kinds(answers: Sequence[object]) -> list[str]:
    return ["" if isinstance(answer, list) else type(answer).__name__ for answer in answers]


def test_samples_of_equal_shapes_share_a_call() -> None:
    handler = Roots()
    answers = ask(handler, [4.0], [9.0, 16.0], [25.0], [36.0, 49.0])
    assert answers == [[2.0], [3.0, 4.0], [5.0], [6.0, 7.0]]
    assert handler.sizes == [2, 2]


def test_a_sample_that_does_not_decode_is_not_run() -> None:
    handler = Roots()
    first, refused, last = ask(handler, [4.0], "nine", [16.0])
    assert (first, last) == ([2.0], [4.0])
    assert isinstance(refused, RequestError)
    assert handler.sizes == [2]


def test_a_sample_that_fails_the_model_fails_alone(capfd: pytest.CaptureFixture[str]) -> None:
    handler = Roots()
    answers = ask(handler, [4.0], [-1.0], [9.0], [16.0], [-2.0])
    assert kinds(answers) == ["", "HandlerFailed", "", "", "HandlerFailed"]
    assert str(answers[1]) == "Prediction failed"
    assert handler.sizes[0] == 5
    assert capfd.readouterr().err.count("ValueError: a root of what is below zero") == 1


def test_nothing_is_run_again_when_the_yaml_says_so() -> None:
    handler = Roots()
    handler.model_yaml_config = {"retry": False}
    assert kinds(ask(handler, [4.0], [-1.0], [9.0, 9.0])) == ["HandlerFailed"] * 2 + [""]
    assert handler.sizes == [2, 1]


def test_what_the_model_refuses_is_told_to_who_sent_it() -> None:
    answers = ask(Roots(), [4.0], [-7.0])
    assert kinds(answers) == ["", "InvalidInput"]
    assert str(answers[1]) == "seven may not be negative"


def test_lack_of_memory_is_not_tried_again() -> None:
    handler = Roots()

    def hungry(numbers: torch.Tensor) -> torch.Tensor:
        handler.sizes.append(len(numbers))
        raise MemoryError

    handler.model = hungry
    with pytest.raises(MemoryError):
        ask(handler, [4.0], [9.0])
    assert handler.sizes == [2]


def test_a_model_that_drops_the_batch_is_told_so() -> None:
    handler = Roots()
    handler.model = torch.sum
    handler.postprocess = lambda data: [float(data)]  # type: ignore[method-assign]
    with pytest.raises(HandlerFailed, match="1 outputs for 2 samples"):
        ask(handler, [4.0], [9.0])
