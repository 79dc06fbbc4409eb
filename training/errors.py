"""What can stop a training run, sorted by who can act on it; a wrong setting is a `ConfigError`."""

from __future__ import annotations

from flambeau.errors import FlambeauError


class DataError(FlambeauError):
    """The data is missing or damaged: whoever provides it can act."""


class TrainingError(FlambeauError):
    """The run cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written, or is damaged."""


class NonFiniteLoss(TrainingError):  # noqa: N818  # reads as what it says
    """The loss became NaN or infinite."""
