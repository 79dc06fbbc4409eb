"""One loaded model in a worker: load it, warm it up, check it, run batches.

A handler is the model author's code: whatever it raises or returns, a batch has exactly one result
per request and the worker goes on.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flambeau.codec import Row, decode_request, encode_output
from flambeau.errors import (
    HandlerFailed,
    InvalidInput,
    OutOfResources,
    UnsupportedContentType,
)
from flambeau.failure_text import print_traceback, text_of
from flambeau.messages import BatchDone, Failure, FailureKind, InferenceRequest, Reply, RunBatch
from flambeau.parity import read_samples
from flambeau.self_check import SelfCheck

if TYPE_CHECKING:
    from collections.abc import Generator

    from flambeau.loading import EntryPoint, LoadEntryPoint
    from flambeau.messages import LoadModel
    from flambeau.parity import Samples


class ModelInstance:
    """A model on its device, with the handler that answers for it."""

    def __init__(
        self, entry_point: EntryPoint, samples: Samples | None, *, load: LoadModel
    ) -> None:
        self._entry_point = entry_point
        self._samples = samples
        self._load = load

    @classmethod
    def load(cls, load: LoadModel, *, load_entry_point: LoadEntryPoint) -> ModelInstance:
        """Import the handler and let it load its model.

        Raises:
            HandlerFailed: The device is not there.
            OutOfResources: The model does not fit into memory.
            Exception: Whatever the loader or the handler's own code raises.
        """
        torch.set_num_threads(load.num_threads)
        _select_device(load.device)
        with _naming_lack_of_memory(f"loading the model on {load.device}"):
            entry_point = load_entry_point(load)
        return cls(entry_point, read_samples(Path(load.model_dir)), load=load)

    def warm_up(self) -> None:
        """Run the archive's samples through the model, so that no request pays for a first time.

        Raises:
            OutOfResources: A full batch does not fit into memory.
            Exception: Whatever the model raises.
        """
        check = self._self_check()
        if isinstance(check, SelfCheck):
            with _naming_lack_of_memory(f"running a batch of {self._load.max_batch_size}"):
                check.warm_up()

    def check(self) -> str:
        """Compare the model's outputs on the archive's samples with the recorded ones.

        Returns:
            What was found, for people.

        Raises:
            HandlerFailed: They differ; the message names the worst sample.
            Exception: Whatever the model raises.
        """
        check = self._self_check()
        return check.compare() if isinstance(check, SelfCheck) else check

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

    def run(self, batch: RunBatch) -> BatchDone:
        """Answer a batch: one result per request, in order, whatever the handler does."""
        began_at = time.perf_counter()
        results: list[Reply | Failure | None] = [None] * len(batch.requests)
        for places in _kinds(batch.requests):
            part = self._run_alike([batch.requests[place] for place in places])
            for place, result in zip(places, part, strict=True):
                results[place] = result
        handler_s = time.perf_counter() - began_at
        done = [result for result in results if result is not None]
        assert len(done) == len(results)
        return BatchDone(batch_id=batch.batch_id, results=done, handler_s=handler_s)

    def _run_alike(self, requests: list[InferenceRequest]) -> list[Reply | Failure]:
        """One handler call."""
        context = self._entry_point.context
        context.begin_batch(requests)
        try:
            rows: list[Row] = [decode_request(request) for request in requests]
            outputs = self._entry_point.call(rows, context)
            return self._encode(outputs, num_requests=len(requests))
        except (InvalidInput, UnsupportedContentType) as error:
            if len(requests) == 1:
                return [encode_failure(error)]
            print_traceback()
            return [Failure(FailureKind.HANDLER_FAILED, "Prediction failed")] * len(requests)
        except BaseException as error:  # noqa: BLE001  # not even SystemExit ends the worker
            print_traceback()
            return [encode_failure(error)] * len(requests)
        finally:
            context.end_batch()

    def _encode(self, outputs: object, *, num_requests: int) -> list[Reply | Failure]:
        if not isinstance(outputs, list):
            raise HandlerFailed("Invalid model predict output")
        if len(outputs) != num_requests:
            raise HandlerFailed("number of batch response mismatched")
        return [
            encode_output(output, processor, max_response_bytes=self._load.max_response_bytes)
            for output, processor in zip(
                outputs, self._entry_point.context.request_processor, strict=True
            )
        ]


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
            return Failure(FailureKind.HANDLER_FAILED, text_of(error))
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
    special = {
        place
        for place, request in enumerate(requests)
        if ("explain", "True") in request.headers or ("describe", "True") in request.headers
    }
    plain = [place for place in range(len(requests)) if place not in special]
    return [*([plain] if plain else []), *([place] for place in sorted(special))]
