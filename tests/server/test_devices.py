from __future__ import annotations

from flambeau.devices import DeviceCycle, count_gpus


def test_workers_are_dealt_out_over_the_gpus_in_turn() -> None:
    cycle = DeviceCycle(2)
    assert [cycle.take() for _ in range(5)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]


def test_without_gpus_every_worker_is_on_the_cpu() -> None:
    cycle = DeviceCycle(0)
    assert {cycle.take() for _ in range(3)} == {"cpu"}


def test_the_environment_limits_the_visible_gpus() -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == 0
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "0,3"}) == 2
