from __future__ import annotations

from flambeau.deployment import DeployStep
from flambeau.messages import LoadStage


def test_each_stage_a_worker_can_report_is_a_step_of_a_deployment() -> None:
    assert {stage.value for stage in LoadStage} <= {step.value for step in DeployStep}
