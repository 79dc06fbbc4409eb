"""The differences from the original that are meant; each id is explained in docs/migrating.md."""

from __future__ import annotations

from typing import Final

from flambeau.torchserve.compare import KnownDifference

KNOWN_DIFFERENCES: Final[tuple[KnownDifference, ...]] = ()
