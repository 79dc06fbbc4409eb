from __future__ import annotations

import os
import subprocess
import sys

# page faults per block that is taken, written to and freed
COUNT = """
import resource
from flambeau.heap import keep_freed_memory

def num_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        bytearray(16 << 20)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10

keep_freed_memory()
num_faults()
print(num_faults())
"""


def num_faults(**settings: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**os.environ, **settings},
        capture_output=True,
        check=True,
    )
    return int(done.stdout)


def test_blocks_that_come_and_go_are_not_fetched_from_the_system_each_time() -> None:
    assert num_faults() < 100


def test_settings_in_the_environment_win() -> None:
    assert num_faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 1_000
