from __future__ import annotations

import resource

import pytest

from flambeau.connections import Connections, max_connections
from flambeau.errors import TooManyConnections


def test_no_more_enter_than_there_may_be() -> None:
    connections = Connections(max_open=2)
    connections.enter()
    connections.enter()
    with pytest.raises(TooManyConnections, match="2 connections are open"):
        connections.enter()
    connections.leave()
    connections.enter()


@pytest.mark.parametrize(
    ("max_files", "count"), [(128, 48), (1024, 720), (64, 8), (1_048_576, 100_000)]
)
def test_the_number_follows_from_the_limit_on_files(
    monkeypatch: pytest.MonkeyPatch, max_files: int, count: int
) -> None:
    def limit(_: int) -> tuple[int, int]:
        return max_files, max_files

    monkeypatch.setattr(resource, "getrlimit", limit)
    assert max_connections(0, is_first=True) == count
    assert max_connections(0, is_first=False) == max(8, count // 16)


def test_a_number_that_is_given_counts() -> None:
    assert max_connections(1000, is_first=True) == 1000
    assert max_connections(1000, is_first=False) == 62
