"""One loaded model in a worker: load it, warm it up, check it, run batches.

A handler is the model author's code: whatever it raises or returns, a batch has exactly one result
per request and the worker goes on.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import torch

from flambeau.codec import decode_request, encode_output
from flambeau.decode_ahead import DecodeAhead, is_special
from flambeau.errors import (
    HandlerFailed,
    InvalidInput,
    OutOfResources,
    UnsupportedContentType,
)
from flambeau.failure_text import print_traceback, text_of
from flambeau.handler import BaseHandler
from flambeau.handler_metrics import MetricsCache
from flambeau.heap import give_freed_memory_back, keep_freed_memory
from flambeau.loading import is_builtin
from flambeau.messages import (
    BatchDone,
    Chunk,
    Failure,
    FailureKind,
    InferenceRequest,
    MetricSample,
    OptimizeLevel,
    Reply,
    RunBatch,
)
from flambeau.optimizing.archive_candidates import ArchiveCandidates
from flambeau.optimizing.candidates import AS_EXPORTED
from flambeau.optimizing.optimizer import Optimizer
from flambeau.parity import read_samples
from flambeau.sample_handler import SampleHandler
from flambeau.self_check import SelfCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from flambeau.codec import Row
    from flambeau.context import Context
    from flambeau.loading import EntryPoint, LoadEntryPoint
    from flambeau.messages import LoadModel
    from flambeau.parity import Samples
    from flambeau.sample_handler import Prepared

    Send: TypeAlias = Callable[[Chunk], None]

STREAM_NEXT: Final = "ts_stream_next"  # TorchServe's header: `true` while more parts follow


def _nowhere(_: Chunk) -> None:
    raise HandlerFailed("parts of an answer can be sent from within a server only")


class ModelInstance:
    """A model on its device, with the handler that answers for it."""

    def __init__(
        self, entry_point: EntryPoint, samples: Samples | None, *, load: LoadModel
    ) -> None:
        self._entry_point = entry_point
        self._samples = samples
        self._load = load
        self._loop: asyncio.AbstractEventLoop | None = None
        self._optimizer: Optimizer | None = None
        self._found: str | None = None
        # the handler, if its batches may be decoded before their turn
        self._decodes_ahead: SampleHandler | None = None
        self.optimization = ""

    @classmethod
    def load(cls, load: LoadModel, *, load_entry_point: LoadEntryPoint) -> ModelInstance:
        """Import the handler and let it load its model.

        Raises:
            HandlerFailed: The device is not there.
            OutOfResources: The model does not fit into memory.
            Exception: Whatever the loader or the handler's own code raises.
        """
        keep_freed_memory()
        torch.set_num_threads(load.num_threads)
        _select_device(load.device)
        with _naming_lack_of_memory(f"loading the model on {load.device}"):
            entry_point = load_entry_point(load)
        return cls(entry_point, read_samples(Path(load.model_dir)), load=load)

    @property
    def handler(self) -> object | None:
        """The object behind the entry point, or None when that is a function."""
        return self._entry_point.handler

    @property
    def optimizer(self) -> Optimizer | None:
        """What chose the model's form; None before warming up, and where there is no choice."""
        return self._optimizer

    def prepare(self) -> None:
        """Warm the model up and check it for all processes that will be forked from this one.

        Raises:
            HandlerFailed: It does not compute what was recorded.
            OutOfResources: A full batch does not fit into memory.
            Exception: Whatever the model raises.
        """
        self.warm_up()
        self._found = self.check()
        give_freed_memory_back()

    def in_worker(self, load: LoadModel) -> ModelInstance:
        """This model, in a process that was forked after loading it with a single thread."""
        self._load = load
        if self._optimizer is None:
            torch.set_num_threads(load.num_threads)
        else:
            self._optimizer.use_threads(load.num_threads)
            self.optimization = self._optimizer.text
        return self

    def warm_up(self) -> None:
        """Run the archive's samples through the model, so that no request pays for a first time.

        If the front allows it, the model gets the fastest form that computes the same; which one,
        `optimization` tells. What was done before a fork is not done again.

        Raises:
            OutOfResources: A full batch does not fit into memory.
            Exception: Whatever the model raises.
        """
        if self._found is not None:
            return
        check = self._self_check()
        if isinstance(check, SelfCheck):
            with self._naming_batch():
                self._optimize(check)
                check.warm_up_between()
        elif self._load.optimize.level is not OptimizeLevel.OFF:
            self.optimization = f"{AS_EXPORTED}: {check}"

    def _optimize(self, check: SelfCheck) -> None:
        """Warm the model up in the form in which it is to answer."""
        wish, handler = self._load.optimize, self._entry_point.handler
        if wish.level is OptimizeLevel.OFF:
            check.warm_up()
            return
        if not isinstance(handler, BaseHandler):
            self.optimization = f"{AS_EXPORTED}: the handler is no BaseHandler"
            check.warm_up()
            return
        if handler.model_yaml_config.get("pt2") is not None:
            self.optimization = f"{AS_EXPORTED}: the YAML's pt2 says how it runs"
            check.warm_up()
            return
        self._optimizer = Optimizer(
            handler,
            check,
            wish=wish,
            num_threads=self._load.num_threads,
            archive=ArchiveCandidates(
                Path(self._load.model_dir),
                device=check.device,
                max_batch_size=check.max_batch_size,
            ),
        )
        self._optimizer.run()
        self.optimization = self._optimizer.text

    def check(self) -> str:
        """Compare the model's outputs on the archive's samples with the recorded ones.

        Returns:
            What was found, for people.

        Raises:
            HandlerFailed: They differ; the message names the worst sample.
            OutOfResources: A full batch does not fit into memory.
            Exception: Whatever the model raises.
        """
        check = self._self_check()
        if not isinstance(check, SelfCheck):
            return check
        if self._optimizer is not None:
            check = self._optimizer.with_tolerance(check)
        if self._found is not None:
            check.compare_first()
            return self._found
        with self._naming_batch():
            if self._optimizer is None:
                return check.compare()
            try:
                found = check.compare(only_alone=self._optimizer.is_remembered)
            except Exception as error:  # noqa: BLE001  # forms of models fail in many ways
                self._optimizer.undo(text_of(error))
                self.optimization = self._optimizer.text
                found = self._optimizer.with_tolerance(check).compare()
            self._optimizer.remember()
            return found

    def _naming_batch(self) -> AbstractContextManager[None]:
        return _naming_lack_of_memory(f"running a batch of {self._load.max_batch_size}")

    def _self_check(self) -> SelfCheck | str:
        """The check to run, or why there is none."""
        handler = self._entry_point.handler
        inference = getattr(handler, "inference", None)
        if self._samples is None:
            return "no samples in the archive"
        if inference is None:
            return "samples not run: the handler has no inference method"
        if not getattr(handler, "check_samples", True):
            return "samples not run: the handler sets check_samples = False"
        return SelfCheck(
            inference=inference,
            samples=self._samples,
            max_batch_size=self._load.max_batch_size,
            device=torch.device(self._load.device),
        )

    def run(
        self, batch: RunBatch, *, prepared: Prepared | None = None, send: Send = _nowhere
    ) -> BatchDone:
        """Answer a batch: one result per request, in order, whatever the handler does.

        Args:
            batch: The requests.
            prepared: All of them decoded, where `decode_ahead` has done that.
            send: Takes parts of answers.
        """
        began_at = time.perf_counter()
        results: list[Reply | Failure | None] = [None] * len(batch.requests)
        for places in _kinds(batch.requests):
            part = Part.of(batch, places)
            part.prepared = prepared
            for place, result in self._answer_apart(part, send):
                results[place] = result
        done = [result for result in results if result is not None]
        assert len(done) == len(results)
        return self.done(batch, done, began_at=began_at)

    def done(
        self, batch: RunBatch, results: list[Reply | Failure], *, began_at: float
    ) -> BatchDone:
        """The end of a batch, with what the handler emitted since the last one."""
        return BatchDone(
            batch_id=batch.batch_id,
            results=results,
            handler_s=time.perf_counter() - began_at,
            metrics=self.take_metrics(),
            decode_s=self.decoding_s,
        )

    @property
    def decoding_s(self) -> float:
        """Seconds of decoding the last batch; 0 where that is never done before its turn."""
        return self._decodes_ahead.decoding_s if self._decodes_ahead is not None else 0.0

    def decode_ahead(self) -> DecodeAhead | None:
        """What decodes the next batch while this one runs; None where each waits for its turn."""
        handler = self._entry_point.handler
        ahead = DecodeAhead.of(
            handler,
            self._entry_point.context,
            load=self._load,
            is_builtin=is_builtin(self._load),
            decode=self.decode,
        )
        if ahead is not None and isinstance(handler, SampleHandler):
            self._decodes_ahead = handler
        return ahead

    def take_metrics(self) -> list[MetricSample]:
        """What the handler emitted since this was last asked."""
        metrics = self._entry_point.context.metrics
        return metrics.take() if isinstance(metrics, MetricsCache) else []

    def _answer_apart(self, part: Part, send: Send) -> Generator[tuple[int, Reply | Failure]]:
        """Results by place; when the handler fails, its halves are run apart.

        So the requests that are not to blame are answered, after at most `2 * log2(size) + 1` calls
        for one that is.
        """
        waiting = [part]
        said: set[str] = set()
        while waiting:
            part = waiting.pop()
            try:
                results = self.call(part, send)
            except BaseException as error:  # noqa: BLE001  # not even SystemExit ends the worker
                halves = part.halves() if self._load.retry and not part.has_streamed else ()
                waiting += reversed(halves)
                if (text := text_of(error)) not in said:
                    said.add(text)
                    print_traceback()
                if halves:
                    continue
                results = [encode_failure(error)] * len(part.requests)
            yield from zip(part.places, results, strict=True)

    def call(self, part: Part, send: Send) -> list[Reply | Failure]:
        """One handler call.

        Raises:
            BaseException: Whatever the handler raises; HandlerFailed when its result is no list
                with one sendable item per request.
        """
        context = self._entry_point.context
        context.begin_batch(part.requests)
        try:
            rows = self._rows(part)
            with self.streaming(context, part, send):
                outputs = self._entry_point.call(rows, context)
                if inspect.isawaitable(outputs):
                    outputs = self._event_loop().run_until_complete(outputs)
            return self.encode(outputs, context)
        finally:
            context.end_batch()

    async def call_concurrently(self, part: Part, send: Send) -> list[Reply | Failure]:
        """One call of a handler that is a coroutine, beside others; has a context of its own.

        Raises:
            BaseException: As `call`.
        """
        context = copy.copy(self._entry_point.context)
        context.begin_batch(part.requests)
        rows = [self.decode(request) for request in part.requests]
        with self.streaming(context, part, send):
            outputs = self._entry_point.call(rows, context)
            if inspect.isawaitable(outputs):
                outputs = await outputs
        return self.encode(outputs, context)

    def call_running(self, part: Part, rows: list[Row]) -> list[Reply | Failure]:
        """One step of a continuous batch: an output per running request, each with its own.

        A request goes on while its stopping criterion says so, which the answer's header tells.

        Raises:
            BaseException: As `call`.
        """
        context = self._entry_point.context
        context.begin_batch(part.requests)
        try:
            outputs = self._entry_point.call(rows, context)
            criteria = context.stopping_criteria or []
            for place, output in enumerate(outputs if isinstance(outputs, list) else ()):
                goes_on = place < len(criteria) and not criteria[place](output)
                context.set_response_header(place, STREAM_NEXT, str(goes_on).lower())
            return self.encode(outputs, context)
        finally:
            context.end_batch()

    def _rows(self, part: Part) -> list[Row]:
        prepared, part.prepared = part.prepared, None  # if the call fails, its halves do without
        if prepared is None or self._decodes_ahead is None:
            return [self.decode(request) for request in part.requests]
        self._decodes_ahead.prepared_ahead = prepared
        assert isinstance(prepared.rows, list)  # as it is, by which the handler knows it
        return prepared.rows

    def decode(self, request: InferenceRequest) -> Row:
        """A request as the handler reads it."""
        return decode_request(request, as_sent=not self._load.decode_inputs)

    def encode(self, outputs: object, context: Context) -> list[Reply | Failure]:
        """What the handler returned, one result per request.

        Raises:
            HandlerFailed: It is not one sendable item per request.
        """
        processors = context.request_processor
        if not isinstance(outputs, list):
            raise HandlerFailed("Invalid model predict output")
        if len(outputs) != len(processors):
            raise HandlerFailed("number of batch response mismatched")
        return [
            encode_output(output, processor, max_response_bytes=self._load.max_response_bytes)
            for output, processor in zip(outputs, processors, strict=True)
        ]

    @contextmanager
    def streaming(self, context: Context, part: Part, send: Send) -> Generator[None]:
        """Let the handler send parts of its answers meanwhile."""

        def send_parts(outputs: list[object]) -> None:
            parts = self.encode(outputs, context)
            part.has_streamed = True
            for place, reply in zip(part.places, parts, strict=True):
                if isinstance(reply, Failure):
                    raise HandlerFailed(reply.message)
                send(Chunk(batch_id=part.batch_id, place=place, reply=reply))

        context.intermediate_sink = send_parts
        try:
            yield
        finally:
            context.intermediate_sink = None

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """For handlers that are coroutines but are called in turn."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop


@dataclass(kw_only=True, slots=True)
class Part:
    """The requests of a batch that one handler call answers.

    Attributes:
        batch_id: The batch.
        places: Their places in it.
        requests: As many.
        has_streamed: Whether parts of their answers are on their way already.
        prepared: What they hold, decoded, until it is used; or None.
    """

    batch_id: int
    places: list[int]
    requests: list[InferenceRequest]
    has_streamed: bool = False
    prepared: Prepared | None = None

    @classmethod
    def of(cls, batch: RunBatch, places: list[int]) -> Part:
        """Some of a batch's requests."""
        requests = [batch.requests[place] for place in places]
        return cls(batch_id=batch.batch_id, places=places, requests=requests)

    def halves(self) -> tuple[Part, Part] | tuple[()]:
        """The first half and the second; none of a single request."""
        middle = (len(self.requests) + 1) // 2
        if middle == len(self.requests):
            return ()
        first, second = (
            Part(batch_id=self.batch_id, places=self.places[cut], requests=self.requests[cut])
            for cut in (slice(middle), slice(middle, None))
        )
        return first, second


def encode_failure(error: BaseException) -> Failure:
    """What the front learns of an exception; the rest is in the traceback on stderr."""
    match error:
        case InvalidInput():
            return Failure(FailureKind.INVALID_INPUT, text_of(error))
        case UnsupportedContentType():
            return Failure(FailureKind.UNSUPPORTED_CONTENT_TYPE, text_of(error))
        case MemoryError() | torch.OutOfMemoryError():
            return Failure(FailureKind.OUT_OF_RESOURCES, "Out of resources")
        case HandlerFailed():
            return Failure(FailureKind.HANDLER_FAILED, text_of(error), error.status)
        case Exception() if "CUDA" in text_of(error):  # TorchServe's rule
            return Failure(FailureKind.OUT_OF_RESOURCES, "Out of resources")
        case _:
            return Failure(FailureKind.HANDLER_FAILED, "Prediction failed")


def _select_device(name: str) -> None:
    device = torch.device(name)
    if device.type != "cuda":
        return
    num_gpus = torch.cuda.device_count()
    if (device.index or 0) >= num_gpus:
        raise HandlerFailed(
            f"the model is to run on {name}, but torch sees {num_gpus} CUDA devices; check the "
            "driver, CUDA_VISIBLE_DEVICES, and that torch is built for CUDA"
        )
    torch.cuda.set_device(device)  # handlers may say just "cuda"


@contextmanager
def _naming_lack_of_memory(what: str) -> Generator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfResources(f"out of memory in {what}: {type(error).__name__}: {error}") from error


def _kinds(requests: list[InferenceRequest]) -> list[list[int]]:
    """Places of requests that one handler call may answer together.

    Handlers read from the first request whether to explain or to describe, and answer those one
    at a time; so each of those goes alone, and changes no other client's answer.
    """
    special = {place for place, request in enumerate(requests) if is_special(request)}
    plain = [place for place in range(len(requests)) if place not in special]
    return [*([plain] if plain else []), *([place] for place in sorted(special))]
