"""What handlers import from TorchServe's worker."""

from flambeau.torchserve.util import PredictionException

__all__ = ["PREDICTION_METRIC", "PredictionException"]

PREDICTION_METRIC = "PredictionTime"
