"""Lines in four languages, read from packages that training needs anyway: text without a download.

    c++        PyTorch's headers              english    scikit-learn's docstrings
    cmake      PyTorch's CMake modules        python     scikit-learn's code

Only those of 30 characters or more, without comments, each once. Their content depends on the
releases that are installed; `data_digest` tells whether two runs had the same.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from training.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from training.splits import IntArray

LINES_PER_CLASS = 1200
_MIN_CHARACTERS = 30
_PACKAGES = ("cluster", "decomposition", "ensemble", "linear_model")
_TORCH = Path(torch.__file__).parent


def code_lines() -> tuple[list[str], IntArray, list[str]]:
    """The lines, their class indices, and the classes.

    Raises:
        DataError: A package is not installed, or without these files.
    """
    folders = [_sklearn() / name for name in _PACKAGES]
    modules = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    english, python = _english_and_python(modules)
    sources = {
        "c++": _code(sorted((_TORCH / "include/c10/util").glob("*.h")), comments=("//", "*", "/*")),
        "cmake": _code(sorted((_TORCH / "share/cmake").rglob("*.cmake")), comments=("#",)),
        "english": english,
        "python": python,
    }
    texts: list[str] = []
    for name, lines in sources.items():
        texts += _drawn(lines, name=name)
    labels_N = np.repeat(np.arange(len(sources)), LINES_PER_CLASS)
    return texts, labels_N, list(sources)


def _sklearn() -> Path:
    """Where it is installed, without importing it, which takes seconds."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("scikit-learn is not installed; pip install 'flambeau[train]'")
    return Path(found.origin).parent


def _drawn(lines: Iterable[str], *, name: str) -> list[str]:
    """As many as there are to be, of all files alike."""
    stripped = (line.strip() for line in lines)
    distinct = list(dict.fromkeys(line for line in stripped if len(line) >= _MIN_CHARACTERS))
    if len(distinct) < LINES_PER_CLASS:
        raise DataError(
            f"data.name=code_lines finds {len(distinct)} lines of {name} in {_TORCH} and "
            f"{_sklearn()}; it needs {LINES_PER_CLASS}, so install both from their wheels, or use "
            "data.name=text"
        )
    places = np.random.RandomState(0).permutation(len(distinct))[:LINES_PER_CLASS]
    return [distinct[place] for place in places.tolist()]


def _code(paths: Iterable[Path], *, comments: tuple[str, ...]) -> list[str]:
    lines = (line for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if not line.strip().startswith(comments)]


def _english_and_python(paths: Iterable[Path]) -> tuple[list[str], list[str]]:
    """What docstrings tell before they list parameters, and the lines outside of them."""
    english: list[str] = []
    python: list[str] = []
    for path in paths:
        source = path.read_text(encoding="utf-8")
        in_docstrings: set[int] = set()
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            if docstring := ast.get_docstring(node):
                english += docstring.partition("Parameters\n---")[0].splitlines()
                place = node.body[0]
                in_docstrings |= {*range(place.lineno, (place.end_lineno or place.lineno) + 1)}
        python += [
            line
            for number, line in enumerate(source.splitlines(), start=1)
            if number not in in_docstrings and not line.strip().startswith("#")
        ]
    return english, python
