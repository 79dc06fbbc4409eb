"""Our server answers as TorchServe did, except where a difference is meant and documented."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flambeau.torchserve.compare import Outcome, Verdict
from flambeau.torchserve.exchange import read_exchanges
from tests.conformance.known_differences import KNOWN_DIFFERENCES
from tests.conformance.scenario import RECORDINGS, Recordable
from tests.conformance.scenarios import SCENARIOS

MIGRATING = Path(__file__).resolve().parents[2] / "docs" / "migrating.md"


@pytest.mark.slow
@pytest.mark.timeout(600)  # the longest scenarios start a server and a dozen workers
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_we_answer_as_recorded(
    scenario: Recordable, verdicts: Callable[[Recordable], list[Verdict]]
) -> None:
    unexpected = [each for each in verdicts(scenario) if each.outcome is Outcome.UNEXPECTED]
    assert not unexpected, "\n".join(
        f"{each.where}: {'; '.join(map(str, each.differences))}" for each in unexpected
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)  # alone, it runs all scenarios
def test_every_known_difference_is_shown_by_an_exchange(
    verdicts: Callable[[Recordable], list[Verdict]],
) -> None:
    shown = {known.id for each in SCENARIOS for v in verdicts(each) for known in v.known}
    assert {known.id for known in KNOWN_DIFFERENCES} == shown


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_recording_is_of_this_scenario(scenario: Recordable) -> None:
    recorded = tuple(each.request for each in read_exchanges(scenario.recorded))
    assert recorded == scenario.requests, "run `make conformance` to record it again"


def test_every_recording_belongs_to_a_scenario() -> None:
    names = {path.name for path in RECORDINGS.glob("*.jsonl")}
    assert names == {scenario.recorded.name for scenario in SCENARIOS}


def test_requests_of_a_scenario_have_names_of_their_own() -> None:
    for scenario in SCENARIOS:
        names = [request.name for request in scenario.requests]
        assert len(names) == len(set(names)), scenario.name


def test_every_known_difference_is_documented() -> None:
    page = MIGRATING.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE))
    assert {known.id for known in KNOWN_DIFFERENCES} <= documented
