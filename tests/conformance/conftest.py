"""Our answers to what was recorded, one server per scenario, asked once per session."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flambeau.torchserve.compare import Verdict
from flambeau.torchserve.exchange import read_exchanges
from flambeau.torchserve.upstream import running_flambeau
from tests.conformance.record import run, verdicts_of
from tests.conformance.scenario import Scenario


@pytest.fixture(scope="session")
def verdicts() -> Callable[[Scenario], list[Verdict]]:
    """The verdicts on a scenario's exchanges."""
    found: dict[str, list[Verdict]] = {}

    def of(scenario: Scenario) -> list[Verdict]:
        if scenario.name not in found:
            theirs = read_exchanges(scenario.recorded)
            found[scenario.name] = verdicts_of(scenario, theirs, run(scenario, running_flambeau))
        return found[scenario.name]

    return of
