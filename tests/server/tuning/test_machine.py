from __future__ import annotations

from pathlib import Path

from flambeau.tuning.machine import free_bytes, this_machine


def test_a_container_s_limit_counts_where_it_is_less(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable:    4000 kB\n")
    assert free_bytes(meminfo, tmp_path) == 4000 << 10
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(meminfo, tmp_path) == 4000 << 10
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_bytes(meminfo, tmp_path) == 4000


def test_a_model_for_the_cpu_is_given_no_gpus() -> None:
    machine = this_machine(may_use_gpus=False)
    assert machine.num_gpus == 0
    assert machine.num_cpus >= 1
    assert str(machine) == f"{machine.num_cpus} CPUs"
