from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.devices import DeviceCycle, count_cpus, count_gpus


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


@pytest.mark.parametrize(
    ("quota", "at_most"),
    [("100000 100000\n", 1), ("150000 100000\n", 2), ("1000 100000\n", 1)],
)
def test_a_container_s_quota_limits_the_cpus(tmp_path: Path, quota: str, at_most: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert 1 <= count_cpus(file) <= at_most


def test_without_a_quota_all_cpus_count(tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    everything = count_cpus(file)
    assert everything >= 1
    file.write_text("max 100000\n")
    assert count_cpus(file) == everything
