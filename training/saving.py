"""Handing checkpoints to the disk: before training goes on, or while it does."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from training.errors import CheckpointError

if TYPE_CHECKING:
    from types import TracebackType

    from training.checkpoint import Checkpoint, Checkpoints

logger = logging.getLogger(__name__)


class Saving(AbstractContextManager["Saving"]):
    """Saves checkpoints, one at a time; leaving it waits until the last one is on the disk.

    Args:
        checkpoints: Where they go.
        in_background: Whether a thread writes them, so that `save` waits for the one before only.
    """

    def __init__(self, checkpoints: Checkpoints, *, in_background: bool) -> None:
        # for the life of the run
        self._checkpoints = checkpoints
        self._pool = ThreadPoolExecutor(1, "save") if in_background else None
        # for the life of one write
        self._written: Future[None] | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except CheckpointError as failure:
            if error is None:
                raise
            logger.warning("%s", failure)  # beside the error that ends the run
        finally:
            if self._pool is not None:
                self._pool.shutdown()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, or have it written; nobody may change it from here on.

        Raises:
            CheckpointError: This one cannot be written, or the one before could not.
        """
        if self._pool is None:
            self._checkpoints.save(checkpoint)
            return
        self.wait()
        self._written = self._pool.submit(self._checkpoints.save, checkpoint)

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            CheckpointError: The last one could not be written.
        """
        if self._written is None:
            return
        failure = self._written.exception()  # may be interrupted, and asked again
        self._written = None
        if failure is not None:
            raise failure
