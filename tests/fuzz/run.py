"""Fuzz one target for a while, with atheris, which sees which branches an input reaches.

    python -m tests.fuzz.run archive 60

What it finds is left in `.fuzz/`; an input that breaks something ends it with an error.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

KEPT = Path(".fuzz")
_MISSING = (
    "atheris is not installed: `pip install -c constraints.txt '.[fuzz]'` needs Linux and a Python "
    "that it has a wheel for\n"
)


def main() -> int:
    """Fuzz; returns only when atheris is missing, for atheris ends the process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("target")
    parser.add_argument("seconds", type=int)
    arguments = parser.parse_args()
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.stdout.write(_MISSING)
        return 0
    with atheris.instrument_imports(include=["flambeau", "python_multipart", "zipfile", "tarfile"]):
        targets = importlib.import_module("tests.fuzz.targets")
    fuzz = targets.TARGETS[arguments.target]
    found = KEPT / arguments.target
    found.mkdir(parents=True, exist_ok=True)
    # the first directory takes new inputs, the others are only read
    flags = [f"-max_total_time={arguments.seconds}", f"-artifact_prefix={found}-", "-max_len=65536"]
    flags += ["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]

    def run(data: bytes) -> None:
        fuzz(data)

    atheris.Setup([sys.argv[0], *flags, str(found), str(targets.CORPUS / arguments.target)], run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
