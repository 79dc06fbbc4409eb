from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import training
from training.graph import backward_steps, dot, main, text
from training.models import mlp

CONFIG = Path(training.__file__).parent / "configs" / "digits_lenet.toml"


def test_the_steps_lead_from_the_loss_to_every_parameter() -> None:
    model = mlp(num_features=3, num_classes=2, hidden=[4])
    steps = backward_steps(model(torch.zeros(1, 3)).sum(), model)
    assert steps[0].name == "SumBackward0"
    assert all(number > step.number for step in steps for number in step.leads_to)
    leaves = {step.name: step.shape for step in steps if step.shape is not None}
    assert leaves == {name: tuple(p.shape) for name, p in model.named_parameters()}
    reached = {1} | {number for step in steps for number in step.leads_to}
    assert reached == {step.number for step in steps}


def test_a_value_used_twice_is_one_step() -> None:
    model = nn.Linear(2, 2)
    hidden = model(torch.zeros(1, 2))
    steps = backward_steps((hidden * hidden).sum(), model)
    assert [step.name for step in steps].count("AddmmBackward0") == 1
    assert steps[1].leads_to == (3, 3)


def test_a_chain_may_be_longer_than_python_s_stack() -> None:
    x = torch.zeros(1, requires_grad=True)
    value = x
    for _ in range(5000):
        value = value + 1
    steps = backward_steps(value, nn.Identity())
    assert len(steps) == 5001
    assert (steps[-1].name, steps[-1].shape) == ("input", (1,))


def test_a_loss_without_a_graph_says_so() -> None:
    with pytest.raises(ValueError, match="requires a gradient"):
        backward_steps(torch.zeros(()), nn.Identity())


def test_it_is_shown_as_lines_or_for_graphviz(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(2, 1)
    steps = backward_steps(model(torch.zeros(1, 2)).sum(), model)
    assert "weight [1, 2]" in text(steps)
    assert f'  1 [label="SumBackward0", shape=ellipse];\n  1 -> {steps[0].leads_to[0]};' in dot(
        steps
    )
    assert main([str(CONFIG)]) == 0
    assert "fc3.bias [10]" in capsys.readouterr().out
    assert main([str(CONFIG), "--dot"]) == 0
    assert capsys.readouterr().out.startswith("digraph backward {\n")
    assert main(["nowhere.toml"]) == 2
