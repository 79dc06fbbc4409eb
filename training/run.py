"""The state of a run: what trains, how far it is, how it becomes a checkpoint and comes back."""

from __future__ import annotations

import fcntl
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning_fabric.strategies.deepspeed import DeepSpeedStrategy

from flambeau.errors import ConfigError
from training.checkpoint import Checkpoint, Checkpoints, load
from training.config import TrainConfig
from training.continuing import check_same
from training.determinism import rng_states, set_rng_states
from training.distributed import gather_rng_states
from training.errors import CheckpointError
from training.strategies import model_state, optimizer_state, restore_model, restore_optimizer
from training.zero import drop_shards, load_shards, save_shards

if TYPE_CHECKING:
    from collections.abc import Generator

    from lightning_fabric import Fabric
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR
    from torch.optim.swa_utils import AveragedModel

    from training.data import DataSet
    from training.models import ModelSpec
    from training.saving import Saving

NUM_SAMPLES = 16  # held-out inputs in a checkpoint, for verifying what is made of it


@dataclass(kw_only=True)
class Run:
    """One run on one rank.

    Attributes:
        model: Not wrapped for its device; the weights are the wrapped one's.
        averaged: Holds the weights averaged over steps; None if the last ones count.
        git_commit: What `git_commit` said when the run began.
        epoch: Epochs done.
        step: Optimizer steps done.
        metrics: Of the last epoch done; empty before the first.
        best: The metrics of the best epoch; empty before the first.
        num_stale: Epochs since the best one.
        last_path: The last good checkpoint, perhaps still being written; None before the first.
    """

    # for the life of the run
    config: TrainConfig
    fabric: Fabric
    data: DataSet
    spec: ModelSpec
    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    averaged: AveragedModel | None
    checkpoints: Checkpoints
    saving: Saving
    git_commit: str | None
    # until the next step or epoch
    epoch: int = 0
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    num_stale: int = 0
    last_path: Path | None = None

    @property
    def evaluated(self) -> nn.Module:
        """What is validated and exported: the model, or its average over steps."""
        return self.model if self.averaged is None else self.averaged.module

    @property
    def is_stale(self) -> bool:
        """Whether so many epochs have passed without a better one that it should end."""
        return 0 < self.config.patience <= self.num_stale

    def resume(self, *, steps_per_epoch: int) -> None:
        """Continue where `config.resume` says; at the start if there is nothing to continue.

        Args:
            steps_per_epoch: With as many processes as there are now; where the schedule goes on, if
                there were more or fewer.

        Raises:
            ConfigError: The output belongs to another run, or settings have changed since.
            DataError: The data has changed since.
            CheckpointError: The checkpoint, or every one there is, is damaged.
        """
        found = self._find() if self.fabric.is_global_zero else None
        self.last_path = self.fabric.broadcast(found)
        if self.last_path is None:
            return
        checkpoint = load(self.last_path)
        check_same(
            self.config,
            checkpoint,
            path=self.last_path,
            data_digest=self.data.digest,
            fabric=self.fabric,
        )
        if isinstance(self.fabric.strategy, DeepSpeedStrategy):
            load_shards(self.fabric.strategy, self.last_path)
        else:
            restore_model(self.evaluated, checkpoint["model_state_dict"])
            restore_optimizer(self.optimizer, checkpoint["optimizer_state_dict"])
        if self.averaged is not None:
            assert "training_state_dict" in checkpoint  # `check_same` looks at ema_decay
            restore_model(self.model, checkpoint["training_state_dict"])
            self.averaged.n_averaged.fill_(checkpoint["step"])
        self.scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        self.metrics, self.best = checkpoint["metrics"], checkpoint["best"]
        self.num_stale = checkpoint.get("num_stale", 0)
        self.fabric.strategy.precision.load_state_dict(checkpoint.get("precision_state_dict", {}))
        if self.fabric.global_rank < len(checkpoint["rng_states"]):  # else there are more ranks now
            set_rng_states(checkpoint["rng_states"][self.fabric.global_rank])
        if len(checkpoint["rng_states"]) != self.fabric.world_size:
            self.step = self.epoch * steps_per_epoch
            self.scheduler.last_epoch = self.step - 1
            self.scheduler.step()

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Count an epoch and keep what it learnt: rank 0 writes, the others wait.

        Raises:
            CheckpointError: It cannot be written, or the one before could not; earlier ones are
                still there.
        """
        self.epoch += 1
        self.metrics = metrics
        self.num_stale += 1
        if not self.best or _score(metrics) > _score(self.best):
            self.best, self.num_stale = metrics, 0
        checkpoint = self._checkpoint()
        path = self.checkpoints.path(self.epoch)
        if isinstance(self.fabric.strategy, DeepSpeedStrategy):
            save_shards(self.fabric.strategy, path)
        if self.fabric.is_global_zero:
            self.saving.save(checkpoint)
            drop_shards(self.checkpoints.directory, keep=[*self.checkpoints.paths(), path])
        self.fabric.barrier()
        self.last_path = path

    def _checkpoint(self) -> Checkpoint:
        held_out = self.data.val
        samples, sample_labels = self.data.collate(
            [held_out[index] for index in range(min(NUM_SAMPLES, len(held_out)))]
        )
        checkpoint: Checkpoint = {
            "epoch": self.epoch,
            "step": self.step,
            "model_state_dict": model_state(self.evaluated, fabric=self.fabric),
            "optimizer_state_dict": optimizer_state(self.optimizer, fabric=self.fabric),
            "scheduler_state_dict": self.scheduler.state_dict(),
            "precision_state_dict": self.fabric.strategy.precision.state_dict(),
            "rng_states": gather_rng_states(rng_states(), fabric=self.fabric),
            "loss": self.metrics["train_loss"],
            "metrics": self.metrics,
            "best": self.best,
            "num_stale": self.num_stale,
            "config": self.config.to_mapping(),
            "git_commit": self.git_commit,
            "data_digest": self.data.digest,
            "torch_version": str(torch.__version__),  # a class that weights-only loading refuses
            "model": self.spec,
            "classes": self.data.classes,
            "input": {
                "name": "x",
                "dtype": str(self.data.input_dtype).removeprefix("torch."),
                "shape": list(self.data.input_shape),
            },
            "image": None if self.data.image is None else self.data.image.to_mapping(),
            "feature_names": self.data.feature_names,
            "samples": samples,
            "sample_labels": sample_labels,
        }
        if self.data.tokenizer is not None:
            checkpoint["tokenizer"] = self.data.tokenizer.to_mapping()
        if self.data.categories is not None:
            checkpoint["categories"] = self.data.categories
        if self.averaged is not None:
            checkpoint["training_state_dict"] = model_state(self.model, fabric=self.fabric)
        return checkpoint

    def _find(self) -> Path | None:
        self.checkpoints.prepare()
        resume = self.config.resume
        if resume == "auto":
            newest = self.checkpoints.newest()
            return None if newest is None else newest[0]
        if self.checkpoints.paths():
            raise ConfigError(
                f"output, {self.config.output}, holds the checkpoints of an earlier run; continue "
                "it with resume=auto, or choose another output"
            )
        return None if resume == "never" else Path(resume)


@contextmanager
def alone_in(directory: Path) -> Generator[None]:
    """Keep other runs out of a run directory for as long as the block lasts, or this process.

    Raises:
        ConfigError: Another run is writing there.
        CheckpointError: The directory cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("a", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"cannot make {directory}: {error.strerror}; choose another output"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"output, {directory}, is being written to by another run; wait for it, or choose "
                "another output"
            ) from error
        yield


def git_commit() -> str | None:
    """The commit of this checkout, with `-dirty` if files differ from it; None outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _score(metrics: dict[str, float]) -> tuple[float, float]:
    """Sorts epochs: by accuracy on the held-out samples, then by their loss."""
    return metrics["val_accuracy"], -metrics["val_loss"]
