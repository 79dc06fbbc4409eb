"""The server that most of these tests share: they ask it things and leave it as it was."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.server import Server, running_server
from tests.torchserve.grpc.client import Client
from tests.torchserve.grpc.models import make_models

MAX_REQUEST_BYTES = 100_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves everything in `models.py` with one worker each; echo's default version is 1.0."""
    store = tmp_path_factory.mktemp("store")
    limit = str(MAX_REQUEST_BYTES)
    names = make_models(store)
    with running_server(store, "--max-request-bytes", limit, models=names) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Generator[Client]:
    """A connection to the inference port."""
    with Client(server.grpc_target("grpc_inference")) as connected:
        yield connected


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Where a test makes a file to let the `held` and `endless` handlers answer."""
    return tmp_path / "gate"
