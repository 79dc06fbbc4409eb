"""Differences from TorchServe that any answer may show and are meant; docs/migrating.md says why."""

from __future__ import annotations

from typing import Final

from flambeau.torchserve.compare import KnownDifference

KNOWN_DIFFERENCES: Final = (
    KnownDifference(
        id="kept-connections",
        reason="An error does not cost the client its connection.",
        parts=("header connection",),
        theirs=("close",),
        ours=("keep-alive",),
    ),
    KnownDifference(
        id="x-model-version",
        reason="Answers say which version gave them.",
        parts=("header x-model-version",),
        theirs=("None",),
    ),
    KnownDifference(
        id="json-content-type",
        reason="An answer that is JSON says so.",
        parts=("header content-type",),
        theirs=("None",),
        ours=("application/json",),
    ),
)
