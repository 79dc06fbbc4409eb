from __future__ import annotations

import pytest

from flambeau.config import ServeConfig
from flambeau.devices import count_cpus
from flambeau.startup import startup_workers


@pytest.mark.parametrize(
    ("flags", "num_gpus", "workers"),
    [
        ({}, 0, 1),
        ({}, 4, 4),
        ({"one_worker_per_cpu": True}, 0, count_cpus()),
        ({"one_worker_per_cpu": True}, 2, 2),
        ({"default_workers_per_model": 3, "one_worker_per_cpu": True}, 2, 3),
    ],
)
def test_a_model_without_wishes_gets_workers_by_the_machine(
    flags: dict[str, object], num_gpus: int, workers: int
) -> None:
    config = ServeConfig.load(environment={}, flags=flags)
    assert startup_workers(config, num_gpus=num_gpus) == workers
