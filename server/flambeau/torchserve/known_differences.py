"""Differences from TorchServe that any answer may show and that are meant: docs/migrating.md."""

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
        id="closed-when-asked",
        reason="A client that asks for the connection to be closed has it closed.",
        parts=("header connection",),
        theirs=("keep-alive",),
        ours=("close",),
    ),
    KnownDifference(
        id="x-model-version",
        reason="Answers say which version gave them.",
        parts=("header x-model-version",),
        theirs=("None",),
    ),
    KnownDifference(
        id="retry-after",
        reason="A server that is too busy says when to come back.",
        parts=("header retry-after",),
        theirs=("None",),
    ),
    KnownDifference(
        id="json-content-type",
        reason="An answer that is JSON says so.",
        parts=("header content-type",),
        theirs=("None",),
        ours=("application/json",),
    ),
    KnownDifference(
        id="describe-says-more",
        reason="A description says how each worker fares, and which bytes are served.",
        parts=(
            *("body *.status", "body *.reason", "body *.archiveDigest"),
            "body *.archiveSignature",
            *("body *.workers.*.state", "body *.workers.*.stage"),
            *("body *.workers.*.selfCheck", "body *.workers.*.reason"),
            "body *.workers.*.optimization",
            "body *.workers.*.isolation",
        ),
        theirs=("absent",),
    ),
    KnownDifference(
        id="failures-say-why",
        reason="A failed registration says what went wrong.",
        parts=("body reason",),
        theirs=("absent",),
    ),
    KnownDifference(
        id="reasons-of-503",
        reason="The same beginning, then which of the four reasons it was.",
        parts=("body message",),
        theirs=("*has no worker to serve inference request*",),
        ours=("*has no worker to serve inference request*",),
    ),
    KnownDifference(
        id="own-metrics",
        reason="The metrics page has our own series and the process's, in every mode.",
        parts=(
            *("body flambeau_*", "body HELP flambeau_*", "body TYPE flambeau_*"),
            *("body process_*", "body HELP process_*", "body TYPE process_*"),
            "body Requests5XX*",
        ),
        theirs=("absent",),
    ),
    KnownDifference(
        id="openapi-says-more",
        reason="The OpenAPI document lists every route.",
        parts=("body paths.*", "body info.title"),
    ),
    KnownDifference(
        id="not-a-number",
        reason="JSON has no NaN or Infinity; they become null, which every client can read.",
        parts=("body*",),
        theirs=("NaN", "Infinity", "-Infinity"),
        ours=("null",),
    ),
    KnownDifference(
        id="response-timeout",
        reason="A handler that takes too long is a 504 that says so.",
        parts=("status", "reason", "body code", "body message"),
        theirs=("500", "Internal Server Error", '"Worker died."'),
        our_status=504,
    ),
)
