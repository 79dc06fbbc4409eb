"""A program that commits to state files, to be killed: at each of its steps, or at any moment.

    state_writer.py forever FILE          commits until it is killed; prints each number then
    state_writer.py points DIRECTORY      one process for each step, killed before it and after it

Each state says how many commits there were: it has one model, whose worker count is the number.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from flambeau.desired import Desired, VersionRecord
from flambeau.disk import DISK, Disk
from flambeau.model_settings import ModelSettings
from flambeau.state import Operation, StateFile
from flambeau.state_recovery import open_state
from flambeau.state_snapshot import write_snapshot

NUM_COMMITS = 2
_SHARED_MEMORY = Path("/dev/shm")  # a directory of our own is made in it


@contextmanager
def memory_directory() -> Generator[Path]:
    """A directory in memory where that is possible, for tests of the order of things."""
    place = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as directory:
        yield Path(directory)


def state(number: int) -> Desired:
    """The state after so many commits."""
    if number == 0:
        return Desired()
    settings = ModelSettings().with_workers(number % 1000)
    record = VersionRecord(
        model="m", version=str(number), url=f"m-{number}.mar", digest="d" * 64, settings=settings
    )
    return Desired().with_version(record)


def number_of(desired: Desired) -> int:
    """The inverse of `state`; an AssertionError for any other state."""
    number = int(desired.models["m"].default) if desired.models else 0
    assert desired == state(number)
    return number


def save(file: StateFile, number: int, *, disk: Disk = DISK) -> None:
    """As the server does it: the state, and its snapshot."""
    file.commit(state(number), Operation(name="register", model="m", version=str(number)))
    write_snapshot(file.path, file.stored, disk=disk)


def forever(path: Path) -> None:
    file = open_state(path)
    for number in itertools.count(number_of(file.stored.desired) + 1):
        save(file, number)
        os.write(1, f"{number}\n".encode())


def points(directory: Path, *, after: bool) -> None:
    from flambeau.testing import Fault, FaultyDisk  # noqa: PLC0415  # `forever` is to start quickly

    for step in itertools.count(1):
        place = directory / f"{'after' if after else 'before'}-{step}"
        place.mkdir()
        pid = os.fork()
        if pid == 0:
            disk = FaultyDisk(step, Fault.KILL, after=after)
            file = open_state(place / "state.db", disk=disk)
            for number in range(1, NUM_COMMITS + 1):
                save(file, number, disk=disk)
                (place / "acknowledged").write_text(str(number))
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            return


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["forever", path]:
            forever(Path(path))
        case ["points", path]:
            points(Path(path), after=False)
            points(Path(path), after=True)
        case _:
            sys.exit(__doc__)
