"""Our answers to what was recorded, one server per scenario, asked once per session."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flambeau.torchserve.compare import Verdict
from flambeau.torchserve.exchange import read_exchanges
from tests.conformance.record import run, verdicts_of
from tests.conformance.scenario import OURS, Recordable


@pytest.fixture(scope="session")
def verdicts() -> Callable[[Recordable], list[Verdict]]:
    """The verdicts on a scenario's exchanges."""
    found: dict[str, list[Verdict]] = {}

    def of(scenario: Recordable) -> list[Verdict]:
        if scenario.name not in found:
            theirs = read_exchanges(scenario.recorded)
            found[scenario.name] = verdicts_of(scenario, theirs, run(scenario, OURS))
        return found[scenario.name]

    return of
