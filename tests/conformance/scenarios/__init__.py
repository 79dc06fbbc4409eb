"""All scenarios, in the order in which they run."""

from __future__ import annotations

from typing import Final

from tests.conformance.scenario import Scenario
from tests.conformance.scenarios import (
    archive_kinds,
    batches,
    configurations,
    management,
    predictions,
)

SCENARIOS: Final[tuple[Scenario, ...]] = (
    *predictions.SCENARIOS,
    *management.SCENARIOS,
    *archive_kinds.SCENARIOS,
    *batches.SCENARIOS,
    *configurations.SCENARIOS,
)
