"""Replaying recordings by batch size; what records them here is no GPU but calls again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from flambeau.errors import HandlerFailed
from flambeau.messages import OptimizeLevel
from flambeau.optimizing.candidates import Call, graph_candidates
from flambeau.optimizing.graphs import GraphedModel, Recording, sizes_to_record

WEIGHT = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def model(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"scores": x @ WEIGHT, "twice": 2 * x}


class Recorder:
    """As a GPU does, works on the same memory again, and only if told to."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.replayed: list[int] = []

    def __call__(self, call: Call, inputs: Sequence[torch.Tensor]) -> Recording:
        outputs = call(*inputs)
        size = len(inputs[0])
        self.sizes.append(size)

        def replay() -> None:
            self.replayed.append(size)
            for name, output in call(*inputs).items():
                outputs[name].copy_(output)

        return Recording(replay=replay, outputs=outputs)


def graphed(recorder: Recorder, *, max_batch_size: int = 6) -> GraphedModel:
    return GraphedModel(
        model, examples=[torch.ones(1, 5)], max_batch_size=max_batch_size, record=recorder
    )


def test_replaying_equals_the_model_at_every_size() -> None:
    recorder = Recorder()
    call = graphed(recorder)
    assert recorder.sizes == [6, 4, 2, 1]
    answers = []
    for size in (1, 2, 3, 4, 5, 6):
        x = torch.randn(size, 5)
        answers.append((x, call(x)))
    for x, outputs in answers:  # later replays have not touched what was handed out
        assert {name: len(output) for name, output in outputs.items()} == dict.fromkeys(
            ("scores", "twice"), len(x)
        )
        torch.testing.assert_close(outputs, model(x))
    assert recorder.replayed == [1, 2, 4, 4, 6, 6]


def test_what_no_recording_fits_the_model_answers() -> None:
    recorder = Recorder()
    call = graphed(recorder)
    for x in (torch.randn(7, 5), torch.randn(0, 5), torch.randn(5)):
        torch.testing.assert_close(call(x), model(x))
    with pytest.raises(RuntimeError):
        call(torch.randn(2, 4))
    torch.testing.assert_close(call(x=torch.ones(2, 5)), model(torch.ones(2, 5)))
    assert recorder.replayed == []


def test_a_smaller_batch_finds_nothing_of_a_larger_one() -> None:
    seen: list[torch.Tensor] = []

    def look(x: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(x.clone())
        return {"x": x.clone()}

    call = GraphedModel(look, examples=[torch.ones(1, 2)], max_batch_size=4, record=Recorder())
    call(torch.ones(4, 2))
    call(torch.ones(3, 2))
    assert seen[-1].tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]


def test_outputs_without_a_batch_are_refused() -> None:
    def summed(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x.sum()}

    with pytest.raises(HandlerFailed, match="batch first"):
        GraphedModel(
            summed,
            examples=[torch.ones(1, 5)],
            max_batch_size=2,
            record=Recorder(),
        )


def test_few_sizes_are_recorded() -> None:
    assert sizes_to_record(1) == [1]
    assert sizes_to_record(16) == [1, 2, 4, 8, 16]
    assert sizes_to_record(1000) == [1, 8, 16, 32, 64, 128, 256, 512, 1000]


def test_a_cpu_has_no_graphs() -> None:
    found = graph_candidates(
        model,
        lambda _: [],
        level=OptimizeLevel.AUTO,
        device=torch.device("cpu"),
        max_batch_size=4,
    )
    assert list(found) == []
