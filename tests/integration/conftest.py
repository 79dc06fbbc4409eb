"""The server that most tests share: they ask it things and leave it as it was."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.archives import brightness, service, summing
from tests.integration.server import Server, running_server

collect_ignore = [] if sys.version_info >= (3, 11) else ["test_api_documents.py"]  # schemathesis

MAX_REQUEST_BYTES = 100_000
MAX_RESPONSE_BYTES = 200_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves echo 1.0 (default) and 2.0, held, careless, talkative, summing and brightness.

    Each has one worker; held, summing and brightness take batches of 4.
    """
    store = tmp_path_factory.mktemp("store")
    archives = [
        service(store, "echo", version="1.0"),
        service(store, "echo", version="2.0"),
        service(store, "held", yaml="batchSize: 4\njobQueueSize: 8\n"),
        service(store, "careless"),
        service(store, "talkative"),
        summing(store),
        brightness(store),
    ]
    with running_server(
        store,
        *("--max-request-bytes", str(MAX_REQUEST_BYTES)),
        *("--max-response-bytes", str(MAX_RESPONSE_BYTES)),
        models=[archive.name for archive in archives],
    ) as running:
        yield running


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Where a test makes a file to let the `held` handler answer."""
    return tmp_path / "gate"
