from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from flambeau.metrics_config import SERVER_METRICS
from flambeau.system_metrics import SystemMetrics, query_gpus

MEMINFO = "MemTotal:  4096000 kB\nMemFree: 100 kB\nMemAvailable: 1024000 kB\nHugePages_Total: 0\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text(MEMINFO)
    ticks(tmp_path, busy=300, idle=700)
    return tmp_path


def ticks(proc: Path, *, busy: int, idle: int) -> None:
    """Write the kernel's counters: user, nice, system, idle, iowait, irq, softirq, steal, guest."""
    (proc / "stat").write_text(f"cpu  {busy - 1} 0 1 {idle - 2} 2 0 0 0 77 0\ncpu0 1 2 3 4\n")


def values(metrics: SystemMetrics) -> dict[str, float]:
    """What is read, by name, with the GPU's number behind it."""
    return {
        each.name + ("" if each.device is None else f" {each.device}"): each.value
        for each in metrics.read()
    }


def test_the_cpu_s_use_is_that_since_the_reading_before(proc: Path) -> None:
    metrics = SystemMetrics(proc=proc, gpus=str)
    assert values(metrics)["CPUUtilization"] == 30.0
    ticks(proc, busy=390, idle=710)
    assert values(metrics)["CPUUtilization"] == 90.0
    assert values(metrics)["CPUUtilization"] == 0.0


def test_memory_is_told_in_mebibytes(proc: Path) -> None:
    found = values(SystemMetrics(proc=proc, gpus=str))
    assert found["MemoryUsed"] == 3000.0
    assert found["MemoryAvailable"] == 1000.0
    assert found["MemoryUtilization"] == 75.0


def test_the_disk_is_measured_as_others_do(proc: Path) -> None:
    found = values(SystemMetrics(proc=proc, disk=proc, gpus=str))
    disk = psutil.disk_usage(str(proc))
    assert found["DiskUsage"] == pytest.approx(disk.used / 2**30, rel=0.05)
    assert found["DiskAvailable"] == pytest.approx(disk.free / 2**30, rel=0.05)
    assert found["DiskUtilization"] == pytest.approx(disk.percent, abs=2)


def test_each_gpu_has_its_number(proc: Path) -> None:
    listing = "0, 35, 2048, 8192\n1, [N/A], 1024, [N/A]\n\n"
    found = values(SystemMetrics(proc=proc, gpus=lambda: listing))
    assert {name: value for name, value in found.items() if name.startswith("GPU")} == {
        "GPUUtilization 0": 35.0,
        "GPUMemoryUsed 0": 2048.0,
        "GPUMemoryUtilization 0": 25.0,
        "GPUMemoryUsed 1": 1024.0,
    }


def test_without_a_driver_there_are_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_gpus() == ""


@pytest.mark.parametrize("script", ["echo 0, 1, 2, 3", "echo out of order; exit 9"])
def test_the_driver_s_own_program_is_asked(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_gpus() == ("0, 1, 2, 3\n" if "exit" not in script else "")


def test_where_the_kernel_has_no_such_files_the_rest_is_read(tmp_path: Path) -> None:
    found = values(SystemMetrics(proc=tmp_path, gpus=str))
    assert set(found) == {"DiskUsage", "DiskAvailable", "DiskUtilization"}


def test_this_machine_can_be_read() -> None:
    known = {spec.name for spec in SERVER_METRICS}
    for value in SystemMetrics().read():
        assert value.name in known
        assert re.fullmatch(r"\d+\.\d+", repr(value.value))
