"""TorchServe's older and stand-alone ways to measure, on top of `flambeau.handler_metrics`."""
