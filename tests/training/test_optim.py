from __future__ import annotations

import pytest

from training.config import OptimizerConfig, ScheduleConfig
from training.models import lenet5
from training.optim import lr_factor, make_optimizer


def test_the_rate_rises_in_a_line_and_falls_to_nothing() -> None:
    config = ScheduleConfig(name="cosine")
    factors = [lr_factor(config, step=step, num_warmup=4, num_steps=24) for step in range(25)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[14] == pytest.approx(0.5)
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert factors[24] == pytest.approx(0.0)


def test_without_a_schedule_the_rate_stays_after_warming_up() -> None:
    config = ScheduleConfig(name="none")
    factors = [lr_factor(config, step=step, num_warmup=1, num_steps=4) for step in range(4)]
    assert factors == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_biases_do_not_decay(name: str) -> None:
    config = OptimizerConfig(name=name, weight_decay=0.1)  # type: ignore[arg-type]
    groups = make_optimizer(lenet5(num_classes=10), config).param_groups
    decays = {group["weight_decay"]: {p.dim() for p in group["params"]} for group in groups}
    assert decays == {0.1: {2, 4}, 0.0: {1}}
