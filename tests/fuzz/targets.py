"""What is fuzzed, and the files that fuzzing begins with.

A target is a function of bytes that raises nothing but `AssertionError` for a fault of ours: what
the code under test documents is caught in it. Its files are in `corpus/NAME/`; whoever finds an
input that broke something puts it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.fuzz import archive, form, frames

CORPUS = Path(__file__).resolve().parent / "corpus"
TARGETS: Mapping[str, Callable[[bytes], bool]] = {
    "archive": archive.fuzz,
    "form": form.fuzz,
    "frames": frames.fuzz,
}


def seeds(target: str) -> list[Path]:
    """The files of a target, by name."""
    return sorted((CORPUS / target).iterdir())
