"""The only things that cross between the front and a worker, as plain data.

`wire.py` turns them into bytes and back. The front sends `ShareMemory` where there is memory to
share, then `LoadModel`, then any number of `RunBatch`; the worker answers the second with
`LoadProgress`... and `Loaded` or `LoadFailed`, and each batch with one `BatchDone`, before which
any number of `Chunk` may come. Both sides close the socket to say good-bye. Nothing is pickled: a
worker runs the model author's code and is not trusted.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

import msgspec

Buffer: TypeAlias = bytes | bytearray | memoryview

SEQUENCE_HEADERS: Final = (  # TorchServe's defaults
    "ts_request_sequence_id",
    "ts_request_sequence_start",
    "ts_request_sequence_end",
)


class FailureKind(str, Enum):
    """Why one request, or a whole load, failed; named for the error class the front raises."""

    INVALID_INPUT = "invalid_input"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    HANDLER_FAILED = "handler_failed"
    OUT_OF_RESOURCES = "out_of_resources"


class LoadStage(str, Enum):
    """What a starting worker is doing; each stage follows the one before it."""

    STARTING = "starting"
    LOADING = "loading"
    WARMING_UP = "warming_up"
    CHECKING = "checking"
    READY = "ready"

    @property
    def text(self) -> str:
        """The stage in a sentence."""
        return self.value.replace("_", " ")


class MetricKind(str, Enum):
    """How a metric's values add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricSpec(msgspec.Struct, frozen=True):
    """A metric that handlers may emit, as the metrics configuration lists it.

    Attributes:
        name: The series' name.
        unit: TorchServe's unit word, e.g. `ms` or `count`.
        kind: How its values add up.
        dimensions: Label names, in the order in which values are given.
    """

    name: str
    unit: str
    kind: MetricKind
    dimensions: list[str]


class MetricSample(msgspec.Struct, frozen=True):
    """One value that a handler emitted.

    Attributes:
        name: The metric's name.
        unit: TorchServe's unit word.
        kind: How it adds up with the values before.
        value: The increment of a counter, the value of a gauge, one observation of a histogram.
        dimensions: Label names with their values.
        request_ids: The request it belongs to, or several separated by commas, or empty.
    """

    name: str
    unit: str
    kind: MetricKind
    value: float
    dimensions: list[tuple[str, str]]
    request_ids: str


class BatchMode(str, Enum):
    """How a worker takes its batches."""

    IN_TURN = "in_turn"  # one at a time
    CONTINUOUS = "continuous"  # of one request each; they join and leave a handler's running batch
    CONCURRENT = "concurrent"  # of one request each; the handler is a coroutine


class OptimizeLevel(str, Enum):
    """How far a worker may change the model it loads to make it faster."""

    OFF = "off"  # not at all
    SAFE = "safe"  # the same numbers, but for rounding in the model's own precision
    AUTO = "auto"  # the same classes: fewer bits, too, where the device computes with them

    def __str__(self) -> str:
        return self.value


class OptimizeWish(msgspec.Struct, frozen=True):
    """What a worker may do to make its model faster.

    Attributes:
        level: How far it may go.
        within_s: Seconds of measuring after which it decides.
        choose_threads: Whether it may use fewer threads than it is given.
        archive_digest: The archive's SHA-256; without it, the choice is not remembered.
        compile: Whether it may compile the model, for minutes, and choose anew what an earlier
            start has chosen; without it, only what was compiled before is tried.
    """

    level: OptimizeLevel = OptimizeLevel.OFF
    within_s: float = 3.0
    choose_threads: bool = False
    archive_digest: str = ""
    compile: bool = False


class IsolationLevel(str, Enum):
    """How far a worker is kept from the rest of the machine; each level includes those before."""

    OFF = "off"  # as any program of the server's user
    BASIC = "basic"  # limits that no handler should meet
    STRICT = "strict"  # and a fence: its own files, no TCP, no signals to others

    def __str__(self) -> str:
        return self.value


class Isolation(msgspec.Struct, frozen=True):
    """What a worker may do beside running its model; a limit of 0 is left as it is.

    Attributes:
        level: How far it is kept apart.
        scratch_dir: Where a fenced worker may write; empty for nowhere.
        read_paths: What a fenced worker may read beside its model, Python and the system.
        write_paths: What it may write, too.
        allow_network: Whether a fenced worker may use TCP.
        max_open_files: Open files at a time.
        max_processes: Processes and threads of the user at a time; root's are not limited.
        max_file_bytes: Size of a file it writes.
    """

    level: IsolationLevel = IsolationLevel.BASIC
    scratch_dir: str = ""
    read_paths: list[str] = []
    write_paths: list[str] = []
    allow_network: bool = False
    max_open_files: int = 0
    max_processes: int = 0
    max_file_bytes: int = 0


class Input(msgspec.Struct, frozen=True):
    """One named part of a request, as the client sent it.

    Attributes:
        name: The form field's name; `body` when the request is one body.
        content_type: The part's content type, or None when the client named none.
        body: The bytes, not decoded; a view into the received frame on the worker's side.
    """

    name: str
    content_type: str | None
    body: memoryview


class InferenceRequest(msgspec.Struct, frozen=True):
    """One client's request as the worker sees it.

    Attributes:
        request_id: The id that is in the response header and in every log line about the request.
        headers: Client headers as ASGI has them, ordered as sent, names in lower case, then those
            the front adds.
        inputs: At least one part.
    """

    request_id: str
    headers: list[tuple[str, str]]
    inputs: list[Input]


class ShareMemory(msgspec.Struct, frozen=True, tag=True):
    """Bodies may come in memory that both have; the open file comes with it. See `arena.py`.

    Attributes:
        num_bytes: The file's size.
    """

    num_bytes: int


class LoadModel(msgspec.Struct, frozen=True, tag=True):
    """Load one model version on one device; sent once.

    Attributes:
        model_name: The name it is registered under.
        model_version: Its version, an opaque string.
        model_dir: The unpacked archive; the worker's working directory.
        handler: Overrides the manifest's handler when not None.
        device: `cpu` or `cuda:N`.
        max_batch_size: The most requests one `RunBatch` carries, 1 or more.
        num_threads: Threads one operation of the model may use on the CPU, 1 or more.
        max_response_bytes: The most bytes one answer may have.
        server_version: What handlers read as `server_version`.
        service_envelope: The envelope around the handler, e.g. `kserve`, or None.
        decode_inputs: Whether JSON and text reach the handler decoded.
        limit_max_image_pixels: What handlers read as `limit_max_image_pixels`.
        model_metrics: The metrics that handlers may emit.
        metrics_auto_detect: Whether they may emit others, too.
        batch_mode: How it takes its batches.
        retry: Whether the parts of a batch that failed may be run again.
        sequence_headers: Names of the headers that carry a sequence's id, start and end.
        optimize: What may be done to make the model faster.
        isolation: What the worker gives up before it loads the model.
    """

    model_name: str
    model_version: str
    model_dir: str
    handler: str | None
    device: str
    max_batch_size: int
    num_threads: int
    max_response_bytes: int
    server_version: str
    service_envelope: str | None = None
    decode_inputs: bool = True
    limit_max_image_pixels: bool = True
    model_metrics: list[MetricSpec] = []
    metrics_auto_detect: bool = False
    batch_mode: BatchMode = BatchMode.IN_TURN
    retry: bool = True
    sequence_headers: tuple[str, str, str] = SEQUENCE_HEADERS
    optimize: OptimizeWish = OptimizeWish()
    isolation: Isolation = Isolation()


class LoadProgress(msgspec.Struct, frozen=True, tag=True):
    """The worker has entered this stage."""

    stage: LoadStage


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded, warm and checked: the worker takes batches.

    Attributes:
        load_s: Seconds in importing the handler and loading the model.
        warm_up_s: Seconds in warming up and checking.
        check: What the self-check on the archive's samples found, for people to read.
        metrics: What the handler emitted on the way.
        optimization: In which form the model runs, for people to read.
        isolation: What the worker is kept from, for people to read.
    """

    load_s: float
    warm_up_s: float
    check: str
    metrics: list[MetricSample] = []
    optimization: str = ""
    isolation: str = ""


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be served; the worker exits after sending this.

    Attributes:
        stage: Where it failed.
        kind: `HANDLER_FAILED` or `OUT_OF_RESOURCES`.
        message: The original error's type and text.
    """

    stage: LoadStage
    kind: FailureKind
    message: str


class SharedBody(msgspec.Struct, frozen=True, array_like=True):
    """Where one body is in the shared memory.

    Attributes:
        request: Its request's place in the batch.
        part: Its input's place in the request.
        offset: Where it begins, in bytes.
        num_bytes: How long it is.
    """

    request: int
    part: int
    offset: int
    num_bytes: int


class RunBatch(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Answer these requests in one handler call.

    Attributes:
        batch_id: Rises by one per batch; the answer carries it back.
        requests: 1 to `LoadModel.max_batch_size` requests.
        shared: The bodies that are in shared memory until the answer; they are empty here.
    """

    batch_id: int
    requests: list[InferenceRequest]
    shared: list[SharedBody] = []


class CancelBatch(msgspec.Struct, frozen=True, tag=True):
    """Nobody waits for this batch any more; sent in the modes in which a batch is one request.

    The worker sends its `BatchDone` all the same, unless it has done so already.
    """

    batch_id: int


class Reply(msgspec.Struct, frozen=True, tag=True):
    """One request's answer.

    Attributes:
        status: HTTP status, 200 unless the handler set one.
        phrase: Reason phrase the handler set, or empty.
        headers: Response headers the handler set.
        body: The encoded answer.
    """

    status: int
    phrase: str
    headers: list[tuple[str, str]]
    body: memoryview


class Failure(msgspec.Struct, frozen=True, tag=True):
    """One request's failure; never an exception object.

    Attributes:
        kind: Which of our errors the front raises.
        message: Its text.
        status: The HTTP status the handler chose for it, or None.
    """

    kind: FailureKind
    message: str
    status: int | None = None


class Chunk(msgspec.Struct, frozen=True, tag=True):
    """One part of one request's streamed answer, sent while the handler is still at work.

    The first part carries status and headers; the request's result in `BatchDone` is the last.

    Attributes:
        batch_id: The `RunBatch` it belongs to.
        place: The request's place in that batch.
        reply: The part.
    """

    batch_id: int
    place: int
    reply: Reply


class BatchDone(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """One result per request of the batch, in its order.

    Attributes:
        batch_id: The `RunBatch` this answers.
        results: As many as the batch had requests.
        handler_s: Seconds the handler call took, without what had been decoded before its turn.
        metrics: What the handler emitted on the way.
        decode_s: Seconds of decoding it that the worker could do while it computes another batch;
            0 where it cannot.
    """

    batch_id: int
    results: list[Reply | Failure]
    handler_s: float
    metrics: list[MetricSample] = []
    decode_s: float = 0.0


ToWorker: TypeAlias = ShareMemory | LoadModel | RunBatch | CancelBatch
ToFront: TypeAlias = LoadProgress | Loaded | LoadFailed | Chunk | BatchDone
