"""Will a TorchServe installation work here? What is looked at before anything is served."""
