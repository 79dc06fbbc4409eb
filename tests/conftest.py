"""Fixtures of more than one folder."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture
def imports_are_undone() -> Iterator[None]:
    """Loading is once per process, which a worker is and a test is not."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not _is_installed(sys.modules[name]):  # torch does not survive a second import
            del sys.modules[name]


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or "site-packages" in file or file.startswith(sys.base_prefix)


# whole files run in one process each: the longest come first, so that the others fill the rest
_LONGEST = (
    "test_docs.py",
    "test_recorded.py",
    "test_cases.py",
    "test_train.py",
    "test_strategies.py",
    "test_kills.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


def pytest_collection_finish() -> None:
    """Let collections look at what tests make, as the server's do, not at what they import."""
    gc.collect()
    gc.freeze()
