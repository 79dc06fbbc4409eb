"""`MicroBatching`: while one part of a batch is in the model, the next is being prepared.

A handler says `self.handle = MicroBatching(self)`, or the model's YAML has `micro_batching`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from flambeau.context import Context

HANDLER_METHODS: Final[tuple[str, ...]] = ("preprocess", "inference", "postprocess")
_PROFILE_VARIABLE: Final = "ENABLE_TORCH_PROFILER"  # as BaseHandler reads it


class MicroBatching:
    """Runs a handler's steps on parts of a batch, each step in threads of its own.

    Attributes:
        handler: Has `preprocess`, `inference` and `postprocess`; with more than one thread in a
            step, that step must bear being called by several at a time.
        micro_batch_size: The most rows of one part, 1 or more.
    """

    def __init__(
        self,
        parent_handler: Any,  # noqa: ANN401  # whatever has these methods
        micro_batch_size: int = 1,
        parallelism: Mapping[str, int] | None = None,
    ) -> None:
        """Threads start with the first batch.

        Args:
            parent_handler: The handler.
            micro_batch_size: The most rows of one part.
            parallelism: Threads by step; a step that is not named has one.

        Raises:
            ValueError: A size or a number of threads is under 1, or there is no such step.
        """
        if micro_batch_size < 1:
            raise ValueError(f"micro_batch_size is {micro_batch_size}; use 1 or more")
        # for the life of the handler
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._num_threads: dict[str, int] = dict.fromkeys(HANDLER_METHODS, 1)
        # from the first batch on, until `parallelism` changes
        self._pools: dict[str, ThreadPoolExecutor] = {}
        # for the life of one step of one part
        self._local = threading.local()
        self.parallelism = dict(parallelism or {})

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads by step; what is assigned changes the steps it names."""
        return dict(self._num_threads)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        for step, num_threads in parallelism.items():
            if step not in HANDLER_METHODS:
                raise ValueError(f"{step!r} is no step; use {', '.join(HANDLER_METHODS)}")
            if num_threads < 1:
                raise ValueError(f"parallelism of {step} is {num_threads}; use 1 or more")
        self._num_threads.update(parallelism)
        self.shutdown()

    def shutdown(self) -> None:
        """End all threads; the next batch starts new ones."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.shutdown()

    def get_micro_batch_idx(self) -> int | None:
        """Within a step: the place of its part in the batch, counted from 0; else None."""
        return getattr(self._local, "idx", None)

    def __call__(self, data: Sequence[Any], context: Context) -> list[Any]:
        """Answer one batch, as the handler's `handle` would.

        What explains, describes or profiles is left to the handler's own `handle`.
        """
        handler = self.handler
        handler.context = context
        if _PROFILE_VARIABLE in os.environ or handler._is_describe() or handler._is_explain():  # noqa: SLF001
            answers: list[Any] = type(handler).handle(handler, data, context)
            return answers
        began_at = time.perf_counter()
        answers = self.handle(data)
        metrics: Any = context.metrics
        if metrics is not None:
            elapsed_ms = (time.perf_counter() - began_at) * 1000
            metrics.add_time("HandlerTime", round(elapsed_ms, 2), None, "ms")
        return answers

    def handle(self, data: Sequence[Any]) -> list[Any]:
        """Take a batch through the steps; answers are in the order of the rows.

        Raises:
            Exception: What the first part to fail raised; no part is in a step any more by then.
        """
        last = [
            self._begin(idx, data[start : start + self.micro_batch_size])
            for idx, start in enumerate(range(0, len(data), self.micro_batch_size))
        ]
        wait(last)
        return list(chain.from_iterable(future.result() for future in last))

    def _begin(self, idx: int, rows: Sequence[Any]) -> Future[Any]:
        """Queue a part for all steps; a step waits for the part's step before.

        Threads take parts in their order, so nothing ever waits for a later part.
        """
        future: Future[Any] = Future()
        future.set_result(rows)
        for step in HANDLER_METHODS:
            future = self._pool(step).submit(self._run, step, idx, future)
        return future

    def _run(self, step: str, idx: int, before: Future[Any]) -> Any:  # noqa: ANN401  # the step's
        value = before.result()
        self._local.idx = idx
        try:
            return getattr(self.handler, step)(value)
        finally:
            self._local.idx = None

    def _pool(self, step: str) -> ThreadPoolExecutor:
        if step not in self._pools:
            self._pools[step] = ThreadPoolExecutor(
                self._num_threads[step],
                thread_name_prefix=step,
                initializer=_thread_starter(getattr(self.handler, "device", None)),
            )
        return self._pools[step]


def _thread_starter(device: object) -> Callable[[], None]:
    """Threads begin on the first GPU; those of a handler on another one belong there."""

    def start() -> None:
        if isinstance(device, torch.device) and device.type == "cuda":
            torch.cuda.set_device(device)

    return start
