"""All scenarios, in the order in which they run."""

from __future__ import annotations

from typing import Final

from tests.conformance.command_lines import CommandLines
from tests.conformance.scenario import Recordable
from tests.conformance.scenarios import (
    archive_kinds,
    batches,
    configurations,
    images,
    management,
    predictions,
)

SCENARIOS: Final[tuple[Recordable, ...]] = (
    *predictions.SCENARIOS,
    *management.SCENARIOS,
    *archive_kinds.SCENARIOS,
    *batches.SCENARIOS,
    *configurations.SCENARIOS,
    *images.SCENARIOS,
    CommandLines(),
)
