"""Checkpoints: one dict in one file, with all that resuming, exporting and verifying need.

A file appears whole or not at all: it is written aside, synced, renamed. `torch.load` does not
notice flipped bits, so `load` compares the zip entries' checksums first.
"""

from __future__ import annotations

import io
import logging
import pickle
import zipfile
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch

from flambeau.disk import DISK, Disk
from flambeau.weights import pickled
from flambeau.written_aside import written_aside
from training.determinism import RngStates
from training.errors import CheckpointError
from training.models import ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


class InputSpec(TypedDict):
    """The model's input: the forward argument's name, torch's dtype, the shape of one sample."""

    name: str
    dtype: str
    shape: list[int]


class _Always(TypedDict):
    """The keys without which a file is not one of ours."""

    epoch: int
    step: int
    model_state_dict: dict[str, torch.Tensor]
    optimizer_state_dict: dict[str, Any]
    scheduler_state_dict: dict[str, Any]
    rng_states: list[RngStates]
    loss: float
    metrics: dict[str, float]
    best: dict[str, float]
    config: dict[str, Any]
    git_commit: str | None
    data_digest: str
    torch_version: str
    model: ModelSpec
    classes: list[str]
    input: InputSpec
    image: dict[str, Any] | None
    feature_names: list[str] | None
    samples: torch.Tensor
    sample_labels: torch.Tensor


class Checkpoint(_Always, total=False):
    """What a file holds; tensors on the CPU, everything else plain.

    Attributes:
        epoch: Epochs done.
        step: Optimizer steps done.
        model_state_dict: The weights that were validated: averaged over steps, if that is set.
        training_state_dict: Those of the last step, if others were validated.
        precision_state_dict: By how much losses are scaled, in the precision that does so.
        rng_states: One per rank.
        loss: Mean training loss of the last epoch.
        metrics: Of the last epoch: `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy`.
        best: The metrics of the best epoch so far.
        num_stale: Epochs since then.
        config: What `TrainConfig.from_mapping` reads.
        git_commit: Of the checkout that trained, with `-dirty` if it had changes; None outside one.
        data_digest: sha256 of the data.
        model: How to make the model that takes the weights.
        image: What `ImageTransform.from_mapping` reads; None for tables.
        feature_names: A table's columns; None for images.
        tokenizer: What `Tokenizer.from_mapping` reads; of texts only.
        categories: A table's values that are no numbers, by column; of tables with such only.
        samples: The first held-out inputs, as the model takes them, with the batch first.
        sample_labels: Their class indices, int64.
    """

    training_state_dict: dict[str, torch.Tensor]
    precision_state_dict: dict[str, Any]
    num_stale: int
    tokenizer: dict[str, Any]
    categories: dict[str, list[str]]


def save(path: Path, checkpoint: Checkpoint, *, disk: Disk = DISK) -> None:
    """Write a checkpoint so that a crash at any moment leaves the old file or the new one.

    Args:
        path: Its file.
        checkpoint: What to write.
        disk: What it is written to.

    Raises:
        CheckpointError: The disk is full, or the directory cannot be written.
    """
    # Through memory: on a full disk torch's writer hides the OSError in a message about positions.
    content = io.BytesIO()
    torch.save(checkpoint, content)
    try:
        with written_aside(path, disk=disk) as file:
            file.write(content.getbuffer())
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {path} ({content.tell():,} bytes): {error.strerror}; "
            "earlier checkpoints are untouched; make room, then resume=auto"
        ) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, to the CPU, and verify that it is whole.

    Raises:
        CheckpointError: The file is missing, cut off, damaged, or not one of ours.
    """
    try:
        with zipfile.ZipFile(path) as entries:
            damaged = entries.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {damaged} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint that loads safely: {pickled.refusal(error)}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    if missing := sorted(Checkpoint.__required_keys__ - content.keys()):
        raise CheckpointError(f"{path} is not a checkpoint of ours: it has no {', '.join(missing)}")
    return cast("Checkpoint", content)


class Checkpoints:
    """The checkpoints of one run: the last few, and the best as `best.pt`.

    Attributes:
        directory: Where they are; `prepare` makes it.
        best_path: The one with the highest validation accuracy.
    """

    def __init__(self, directory: Path, *, keep: int, disk: Disk = DISK) -> None:
        self.directory = directory
        self.best_path = directory / "best.pt"
        self._keep = keep
        self._disk = disk

    def path(self, epoch: int) -> Path:
        return self.directory / f"epoch-{epoch:05d}.pt"

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint of an epoch, make it `best.pt` if it is, drop the oldest.

        Raises:
            CheckpointError: It cannot be written; what was there still is.
        """
        path = self.path(checkpoint["epoch"])
        if checkpoint["metrics"] == checkpoint["best"]:
            save(
                self.best_path, checkpoint, disk=self._disk
            )  # first: resuming after `path` takes it for written
        save(path, checkpoint, disk=self._disk)
        for old in self.paths()[self._keep :]:
            self._disk.unlink(old)

    def paths(self) -> list[Path]:
        """The files of single epochs, newest first; damaged ones included."""
        return sorted(self.directory.glob("epoch-*.pt"), reverse=True)

    def newest(self) -> tuple[Path, Checkpoint] | None:
        """The newest checkpoint that loads, and its path; None if there is none.

        Raises:
            CheckpointError: There are some, and every one is damaged.
        """
        skipped: list[str] = []
        for path in self.paths():
            try:
                checkpoint = load(path)
            except CheckpointError as error:
                skipped.append(str(error))
                continue
            for message in skipped:
                logger.warning("%s; continuing from %s", message, path)
            return path, checkpoint
        if skipped:
            raise CheckpointError(
                f"no checkpoint in {self.directory} loads: {'; '.join(skipped)}; "
                "move them away to start over"
            )
        return None

    def prepare(self) -> None:
        """Make the directory, and remove what a killed run left half written.

        Raises:
            CheckpointError: The directory cannot be made.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot make {self.directory}: {error.strerror}; choose another output"
            ) from error
        for partial in self.directory.glob(".*.part"):
            partial.unlink()
