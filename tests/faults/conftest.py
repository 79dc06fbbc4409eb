"""The server that is hurt."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.server import Server, running_server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(store: Path) -> Generator[Server]:
    """Serves nothing at first: each case registers its own model, and leaves none."""
    with running_server(store) as running:
        yield running
