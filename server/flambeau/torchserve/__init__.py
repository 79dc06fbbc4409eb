"""Everything whose only reason is compatibility with TorchServe."""
