from __future__ import annotations

import pytest

from flambeau.gpu_usage import parse_gpu_usage

LISTING = """\
0, GPU-aaaa, 3 %, 1 %, 1024 MiB
1, GPU-bbbb, 97 %, 40 %, 70000 MiB
"""
FIRST = "utilization.gpu::3 % utilization.memory::1 % memory.used::1024 MiB"
SECOND = "utilization.gpu::97 % utilization.memory::40 % memory.used::70000 MiB"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, {"cuda:0": f"gpuId::0 {FIRST}", "cuda:1": f"gpuId::1 {SECOND}"}),
        ("1", {"cuda:0": f"gpuId::0 {SECOND}"}),
        ("1,0", {"cuda:0": f"gpuId::0 {SECOND}", "cuda:1": f"gpuId::1 {FIRST}"}),
        ("GPU-bbbb", {"cuda:0": f"gpuId::0 {SECOND}"}),
        ("7, 0", {"cuda:1": f"gpuId::1 {FIRST}"}),
        ("", {}),
    ],
)
def test_devices_are_counted_as_workers_count_them(
    visible: str | None, expected: dict[str, str]
) -> None:
    assert parse_gpu_usage(LISTING, visible=visible) == expected


def test_lines_that_are_something_else_are_ignored() -> None:
    assert parse_gpu_usage("NVIDIA-SMI has failed\n\n0, GPU-a, 1 %\n", visible=None) == {}
