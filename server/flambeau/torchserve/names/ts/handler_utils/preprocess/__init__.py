"""TorchServe's import names, made of Flambeau."""
