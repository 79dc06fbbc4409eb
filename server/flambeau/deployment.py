"""The steps of a deployment, as the registry reports them and clients read them."""

from __future__ import annotations

from enum import Enum

import msgspec


class DeployStep(str, Enum):
    """In order of appearance; `FAILED` may end it any time before `DEFAULT`."""

    REGISTERED = "registered"
    STARTING = "starting"
    LOADING = "loading"
    WARMING_UP = "warming_up"
    CHECKING = "checking"
    READY = "ready"
    DEFAULT = "default"
    DRAINED = "drained"
    DONE = "done"
    FAILED = "failed"


class DeployEvent(msgspec.Struct, frozen=True):
    """One line of a deployment's progress.

    Attributes:
        step: What has just happened, or is happening.
        model: The model being deployed.
        version: The version the step is about: the new one, except for `DRAINED`.
        message: Details for people; the reason for `FAILED`.
    """

    step: DeployStep
    model: str
    version: str
    message: str = ""

    @property
    def is_last(self) -> bool:
        """Whether the deployment is over."""
        return self.step in {DeployStep.DONE, DeployStep.FAILED}
