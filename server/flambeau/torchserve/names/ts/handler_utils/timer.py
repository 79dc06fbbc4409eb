"""TorchServe's name for `flambeau.step_timing`."""

from flambeau.step_timing import timed

__all__ = ["timed"]
