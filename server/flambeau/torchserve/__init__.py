"""Everything whose only reason is compatibility with TorchServe."""

from typing import Final

TORCHSERVE_VERSION: Final = "0.12.0"
"""The release whose behaviour this is; the last one."""
