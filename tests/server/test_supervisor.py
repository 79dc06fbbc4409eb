from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from flambeau.supervisor import CrashLoop, describe_end


def test_pauses_grow_and_five_crashes_within_a_minute_are_the_last() -> None:
    loop = CrashLoop()
    assert [loop.pause_s(now=now) for now in (0, 1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8, None]


def test_crashes_that_are_rare_never_end_it() -> None:
    loop = CrashLoop()
    assert [loop.pause_s(now=30.0 * n) for n in range(50)][-1] == 0.4


def test_an_end_is_told_in_words() -> None:
    assert [describe_end(code) for code in (3, -signal.SIGSEGV, -99)] == [
        "exit code 3",
        "SIGSEGV",
        "signal 99",
    ]


@pytest.mark.slow
def test_it_has_imported_nothing_large_when_it_forks() -> None:
    script = (
        "import sys; from flambeau.cli import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "import flambeau.binding, flambeau.logging, flambeau.supervisor\n"
        "large = {'torch', 'numpy', 'fastapi', 'uvicorn', 'asyncio', 'httpx', 'sqlite3'}\n"
        "print(sorted(large & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
