"""The differences that single exchanges show and that are meant; docs/migrating.md says why."""

from __future__ import annotations

from typing import Final

from flambeau.torchserve import known_differences
from flambeau.torchserve.compare import KnownDifference

_ALL: Final = ("status", "reason", "body", "body *", "layout", "header content-type")

KNOWN_DIFFERENCES: Final = (
    *known_differences.KNOWN_DIFFERENCES,
    # requests
    KnownDifference(
        id="methods-of-reads",
        reason="What only reads is asked by GET, what predicts is not asked by HEAD.",
        exchanges=(
            *("predictions/prediction by HEAD", "predictions/metrics by POST"),
            *("management/set-default by GET", "open_inference_protocol/live by POST"),
        ),
        parts=_ALL,
        our_status=405,
    ),
    KnownDifference(
        id="empty-forms",
        reason="A form without fields is refused, as no handler can do anything with it.",
        exchanges=("predictions/form of no length", "predictions/multipart without parts"),
        parts=_ALL,
        our_status=400,
    ),
    KnownDifference(
        id="form-names",
        reason="A form's field without a value is a field.",
        exchanges=("predictions/form that is JSON",),
        parts=("body inputs.*", "body types.*"),
        theirs=("absent",),
    ),
    KnownDifference(
        id="content-types",
        reason="A content type is heeded in any case, and for fields that are no files.",
        exchanges=(
            *("predictions/JSON type in capitals", "predictions/multipart field of JSON"),
            *("predictions/multipart file", "predictions/multipart with several"),
        ),
        parts=("body inputs.*", "body types.*"),
    ),
    KnownDifference(
        id="headers-in-any-case",
        reason="A handler finds a header however the client spelt it.",
        exchanges=("predictions/a request header*",),
        parts=("body x-custom",),
        theirs=("null",),
        ours=('"Value"',),
    ),
    # answers
    KnownDifference(
        id="reason-phrases",
        reason="The words after the status are the standard's; HTTP/2 and proxies drop others.",
        exchanges=(
            *("predictions/status with a phrase", "predictions/status 503 with a phrase"),
            *("predictions/status of all", "predictions/prediction exception 5*"),
            "batches/teapot",
        ),
        parts=("reason",),
    ),
    KnownDifference(
        id="errors-of-200",
        reason="A PredictionException with code 200 shows its message.",
        exchanges=("predictions/prediction exception 200",),
        parts=("body", "header content-type"),
    ),
    KnownDifference(
        id="bad-input-is-400",
        reason="An envelope or built-in handler that cannot read a request says so to its sender.",
        exchanges=("envelope_*/*", "images/*: no*"),
        parts=_ALL,
        our_status=400,
    ),
    KnownDifference(
        id="explanations-of-classes",
        reason="The class to explain may be a field of the request, as it is documented.",
        exchanges=("images/explanation of a class",),
        parts=_ALL,
        our_status=200,
    ),
    KnownDifference(
        id="envelopes-take-rows",
        reason="Envelopes answer requests with any number of instances, and JSON of any type.",
        exchanges=(
            *("envelope_json/instances", "envelope_json/no instances"),
            *("envelope_json/text of JSON", "envelope_json/bytes of JSON"),
            "envelope_kserve/no instances",
        ),
        parts=_ALL,
        our_status=200,
    ),
    KnownDifference(
        id="base-handler-takes-rows",
        reason="The handler base_handler reads JSON without an envelope.",
        exchanges=("archive_kinds/predict eager", "archive_kinds/predict scripted"),
        parts=_ALL,
        our_status=200,
    ),
    KnownDifference(
        id="innocent-requests",
        reason="A request that makes its batch fail fails alone.",
        exchanges=(
            *("batches/innocent beside *", "batches/other beside *"),
            *("batches/second of a short answer", "batches/third of a short answer"),
        ),
        parts=_ALL,
        our_status=200,
    ),
    KnownDifference(
        id="batches-leave-early",
        reason="A worker that is idle takes what waits, and does not wait for a full batch.",
        exchanges=("batches/*",),
        parts=("body together",),
        theirs=("3",),
    ),
    KnownDifference(
        id="sequence-ids-come-back",
        reason="Every answer within a sequence names it.",
        exchanges=("batches/*sequence*",),
        parts=("header ts_request_sequence_id",),
        theirs=("None",),
    ),
    KnownDifference(
        id="too-large",
        reason="What is too large is named in the answer, and no worker dies of it.",
        exchanges=("limits/* too large",),
        parts=(*_ALL, "header *"),
    ),
    # management
    KnownDifference(
        id="probes-on-every-port",
        reason="/ping answers on every port and needs no token.",
        exchanges=("management/ping on the management port", "tokens/ping without a token"),
        parts=_ALL,
        our_status=200,
    ),
    KnownDifference(
        id="kinds-of-tokens",
        reason="Asking for a token of no kind says which kinds there are.",
        exchanges=("tokens/new token of no kind", "tokens/new token of a wrong kind"),
        parts=("body type", "body message"),
        our_status=400,
    ),
    KnownDifference(
        id="token-answer-is-empty",
        reason="The answer to a request for a token is empty, and not an empty line of JSON.",
        exchanges=("tokens/new token",),
        parts=("body", "header content-type"),
    ),
    KnownDifference(
        id="list-limit-0",
        reason="A page of no models is useless, so limit=0 means the default.",
        exchanges=("management/list with limit 0",),
        parts=("body nextPageToken", "body models.*"),
    ),
    KnownDifference(
        id="arguments-win",
        reason="An explicit argument of a registration wins over the archive's YAML.",
        exchanges=(
            "management/register a configured model",
            "management/describe a model of arguments and YAML",
        ),
        parts=("body status", "body 0.*"),
    ),
    KnownDifference(
        id="room-for-sequences",
        reason="The remaining capacity of a model with sequences counts what they may hold.",
        exchanges=("management/describe a model with sequences",),
        parts=("body 0.jobQueueStatus.remainingCapacity",),
    ),
    KnownDifference(
        id="json-registration-delay",
        reason="Registering by JSON leaves maxBatchDelay at 100 ms instead of -10000.",
        exchanges=("management/describe what JSON registered",),
        parts=("body 0.maxBatchDelay",),
        theirs=("-10000",),
        ours=("100",),
    ),
    KnownDifference(
        id="impossible-settings",
        reason="A setting that cannot work is refused and named, with status 400.",
        exchanges=(
            *("management/register with a batch size of 0", "management/scale below zero"),
            *("management/register by JSON that is none", "management/register by a list of JSON"),
            "management/register by JSON of a wrong type",
        ),
        parts=_ALL,
        our_status=400,
    ),
    KnownDifference(
        id="impossible-settings",
        reason="A setting that cannot work is refused and named, with status 400.",
        exchanges=("management/unregister a batch size of 0",),
        parts=_ALL,
        our_status=404,
    ),
    KnownDifference(
        id="loaded-at-startup",
        reason="loadedAtStartup is of the version, not of the model's name.",
        exchanges=("management/describe the second version", "management/describe both versions"),
        parts=("body *.loadedAtStartup",),
        theirs=("true",),
        ours=("false",),
    ),
    # archives
    KnownDifference(
        id="failed-registrations-leave-nothing",
        reason="A model whose workers do not start is not registered, whatever they raised.",
        exchanges=("archive_kinds/list after all that",),
        parts=("body models*",),
    ),
    KnownDifference(
        id="manifest-defaults",
        reason="Handlers of an archive without a manifest find the defaults as their manifest.",
        exchanges=("archive_kinds/predict without a manifest",),
        parts=_ALL,
        our_status=200,
    ),
    KnownDifference(
        id="other-schemes",
        reason="An address with another scheme is refused as an address.",
        exchanges=("archive_kinds/register by s3", "archive_kinds/register by ftp"),
        parts=("body message",),
        ours=("*does not match any allowed URL(s)*",),
    ),
    KnownDifference(
        id="archives-are-checked",
        reason="What is wrong with an archive is said when it is registered.",
        exchanges=("archive_kinds/register no_zip", "archive_kinds/register manifest_no_json"),
        parts=("body message",),
    ),
    KnownDifference(
        id="archives-are-checked",
        reason="What is wrong with an archive is said when it is registered.",
        exchanges=("archive_kinds/register no_handler",),
        parts=_ALL,
        our_status=400,
    ),
    # protocols and metrics
    KnownDifference(
        id="oip-models",
        reason="The Open Inference Protocol's routes of models and versions exist.",
        exchanges=("open_inference_protocol/*", "predictions/kserve v2 with a version"),
        parts=_ALL,
        theirs=("404", "501", "Not *", '"*"', "absent"),
    ),
    KnownDifference(
        id="combined-port-versions",
        reason="On a combined port, too, a version can be described.",
        exchanges=("combined_port/describe a version", "combined_port/describe all"),
        parts=_ALL,
        our_status=200,
    ),
    KnownDifference(
        id="handler-time",
        reason="HandlerTime is measured for every handler.",
        exchanges=("metrics_*/*",),
        parts=("body HandlerTime*",),
        theirs=("absent",),
    ),
    KnownDifference(
        id="errors-name-their-model",
        reason="A counter of errors says which model counted them.",
        exchanges=("metrics_auto/*",),
        parts=("body Mistakes*",),
    ),
    KnownDifference(
        id="histogram-buckets",
        reason="Histograms have buckets above 10, as handlers count milliseconds.",
        exchanges=("metrics_*/*",),
        parts=("body *_bucket{*",),
        theirs=("absent",),
    ),
)
