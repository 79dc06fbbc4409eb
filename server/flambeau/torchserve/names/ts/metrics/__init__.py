"""TorchServe's names for what handlers measure."""
