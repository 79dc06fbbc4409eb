"""Each fence is tried in a process of its own, for it cannot be taken down again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flambeau import landlock

ATTEMPTS = """
import os, socket, sys
from pathlib import Path
from flambeau import landlock

here, abi, parent = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
system = [Path(path) for path in (*sys.path, sys.base_prefix, "/usr", "/lib", "/lib64", "/proc")]
fence = landlock.Fence(
    read=[here / "readable", *system], write=[here / "scratch"], use=[Path("/dev/null")], tcp=False
)
print("open:", *landlock.restrict(fence, abi=abi), sep="|")

def attempt(name, action):
    try:
        action()
    except PermissionError:
        print(name, "denied")
    else:
        print(name, "done")

attempt("read readable", (here / "readable").read_bytes)
attempt("read secret", (here / "secret").read_bytes)
attempt("write scratch", lambda: (here / "scratch" / "new").write_bytes(b"x"))
attempt("write secret", lambda: (here / "secret").write_bytes(b"x"))
attempt("make a file", lambda: (here / "new").write_bytes(b"x"))
attempt("null", lambda: Path("/dev/null").write_bytes(b"x"))
attempt("bind", lambda: socket.create_server(("127.0.0.1", 0)).close())
attempt("pair", lambda: socket.socketpair()[0].close())
attempt("signal", lambda: os.kill(parent, 0))
"""

needs_landlock = pytest.mark.skipif(
    landlock.kernel_abi() < 6, reason="the kernel's Landlock is older than version 6, or missing"
)


def attempts(directory: Path, *, abi: int) -> dict[str, str]:
    """What a process behind a fence could do, by what it tried."""
    for name in ("readable", "secret"):
        (directory / name).write_bytes(b"content")
    (directory / "scratch").mkdir()
    with subprocess.Popen(["sleep", "60"]) as outside:
        done = subprocess.run(
            [sys.executable, "-c", ATTEMPTS, str(directory), str(abi), str(outside.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        outside.kill()
    first, *lines = done.stdout.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines)
    return {"open": first.removeprefix("open:").strip("|"), **found}


@needs_landlock
def test_a_fence_leaves_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    assert attempts(tmp_path, abi=landlock.NEWEST) == {
        "open": "",
        "read readable": "done",
        "read secret": "denied",
        "write scratch": "done",
        "write secret": "denied",
        "make a file": "denied",
        "null": "done",
        "bind": "denied",
        "pair": "done",
        "signal": "denied",
    }


@needs_landlock
@pytest.mark.parametrize(
    ("abi", "left_open", "bind", "signal"),
    [
        (1, "truncating files|TCP|signals", "done", "done"),
        (3, "TCP|signals", "done", "done"),
        (5, "signals", "denied", "done"),
    ],
)
def test_an_older_kernel_leaves_open_what_it_does_not_know(
    tmp_path: Path, abi: int, left_open: str, bind: str, signal: str
) -> None:
    found = attempts(tmp_path, abi=abi)
    assert found["open"] == left_open
    assert (found["read secret"], found["write scratch"]) == ("denied", "done")
    assert (found["bind"], found["signal"]) == (bind, signal)


def test_a_kernel_without_landlock_leaves_all_open_and_says_so(tmp_path: Path) -> None:
    found = attempts(tmp_path, abi=0)
    assert found.pop("open") == "files|signals|TCP"
    assert set(found.values()) == {"done"}
