"""Train a classifier: the loop, from top to bottom.

    python -m training.train training/configs/digits_lenet.toml epochs=10 optimizer.lr=0.01
    python -m training.train training/configs/digits_lenet.toml output=runs/x resume=auto

On two devices of one machine, then on eight of each of two (the other one with --node-rank=1):

    torchrun --nproc-per-node=2 -m training.train training/configs/digits_lenet.toml
    torchrun --nproc-per-node=8 --nnodes=2 --node-rank=0 --master-addr=10.0.0.1 \
        -m training.train training/configs/images_resnet18.toml

The loop is ours; Lightning Fabric places it on devices, in a precision, among peers. Equal seeds
give equal bits, and a run that was interrupted and resumed equals one that was not.

Shapes: B = batch, K = classes.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, DistributedSampler, Subset

from flambeau.errors import ConfigError, FlambeauError
from flambeau.interrupt import Interrupt
from training.augment import shift_and_rotate
from training.card import write_card
from training.checkpoint import Checkpoints, load
from training.config import TrainConfig, read_config
from training.data import class_weights, load_data
from training.determinism import deterministic, seed_all
from training.distributed import broadcast_buffers, launched
from training.errors import DataError, NonFiniteLoss
from training.logs import RunLog
from training.models import fit_statistics, model_spec, rebuild
from training.optim import averaged_over_steps, make_scheduler
from training.progress import ProgressReport
from training.run import Run, alone_in, git_commit
from training.saving import Saving
from training.scores import accuracy, confusion
from training.settings import flatten
from training.strategies import set_up
from training.totals import Totals, mean_over_ranks
from training.watching import GradientNorms, StepTrace, Waited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_fabric import Fabric
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a run gives.

    Attributes:
        best_checkpoint: Of the epoch with the highest validation accuracy.
        last_checkpoint: Of the last epoch.
        loss: Mean training loss of the last epoch.
        metrics: `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy` of the last epoch.
        best_metrics: The same of the best epoch.
        duration_s: Wall clock, from reading the data to the last checkpoint.
        test_accuracy: Of the best checkpoint on the test split; None without one, and on ranks
            other than 0.
    """

    best_checkpoint: Path
    last_checkpoint: Path
    loss: float
    metrics: dict[str, float]
    best_metrics: dict[str, float]
    duration_s: float
    test_accuracy: float | None = None


def train(config: TrainConfig) -> TrainResult:  # noqa: C901, PLR0915  # one story, told in order
    """Train as configured, leaving checkpoints and logs in `config.output`.

    Raises:
        ConfigError: The settings do not fit the machine, the data, or the run to be resumed.
        DataError: Data is missing or damaged.
        NonFiniteLoss: The loss became NaN or infinite.
        CheckpointError: A checkpoint could not be written or read.
        KeyboardInterrupt: On Ctrl-C or SIGTERM, in the main thread.
    """
    started_at = time.monotonic()
    with ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        stack.enter_context(deterministic(num_threads=config.num_threads))
        fabric = stack.enter_context(launched(config))
        rank, num_ranks = fabric.global_rank, fabric.world_size

        # Data: every rank reads its share of each shuffled epoch and of the held-out samples. Not
        # through fabric.setup_dataloaders, which restarts the shuffling when a run is resumed.
        data = load_data(config.data, image=config.image, text=config.text)
        stack.enter_context(alone_in(config.output) if fabric.is_global_zero else nullcontext())
        sampler: DistributedSampler[tuple[Tensor, int]] = DistributedSampler(
            data.train, num_replicas=num_ranks, rank=rank, seed=config.seed
        )
        generator = torch.Generator()  # seeds the loaders' processes
        train_loader = DataLoader(
            data.train,
            batch_size=config.batch_size,
            sampler=sampler,
            drop_last=len(sampler) >= config.batch_size,  # batch norm cannot train on one sample
            num_workers=config.data.num_workers,
            generator=generator,
            collate_fn=data.collate,
        )
        val_loader = DataLoader(
            Subset(data.val, range(rank, len(data.val), num_ranks)),
            batch_size=config.batch_size,
            num_workers=config.data.num_workers,
            generator=generator,
            collate_fn=data.collate,
        )
        num_batches = len(train_loader)
        steps_per_epoch = math.ceil(num_batches / config.accumulate)
        num_steps = config.epochs * steps_per_epoch

        # Model: equal on all ranks, then placed on their devices.
        seed_all(config.seed)
        spec = model_spec(config.model, data)
        model = rebuild(spec)
        fit_statistics(model, data)
        if config.compile:
            model.compile()
        averaged = averaged_over_steps(model, decay=config.optimizer.ema_decay)
        placed_model, placed_optimizer, optimizer = set_up(
            model, averaged, config.optimizer, fabric=fabric
        )
        scheduler = make_scheduler(
            optimizer, config.schedule, steps_per_epoch=steps_per_epoch, num_steps=num_steps
        )
        weight_K = fabric.to_device(class_weights(data, kind=config.data.class_weights))
        seed_all(config.seed + rank)  # from here on ranks differ: in what dropout drops

        checkpoints = Checkpoints(config.output / "checkpoints", keep=config.keep)
        run = Run(
            config=config,
            fabric=fabric,
            data=data,
            spec=spec,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            averaged=averaged,
            checkpoints=checkpoints,
            saving=stack.enter_context(Saving(checkpoints, in_background=config.async_save)),
            git_commit=git_commit(),
        )
        run.resume(steps_per_epoch=steps_per_epoch)
        progress = stack.enter_context(
            ProgressReport(num_steps=num_steps, done=run.step, enabled=fabric.is_global_zero)
        )
        log: RunLog | None = None
        if fabric.is_global_zero:
            log = stack.enter_context(RunLog(config.output, epoch=run.epoch, step=run.step))
        gradient_norms = GradientNorms(model) if config.log_gradients else None
        trace = stack.enter_context(
            StepTrace(config.output / f"trace-{rank}.json", num_steps=config.profile_steps)
        )
        progress.line(_summary(run))

        while run.epoch < config.epochs and not run.is_stale:
            epoch = run.epoch + 1
            epoch_started_at = time.monotonic()

            # Training: once over the shuffled samples.
            placed_model.train()
            sampler.set_epoch(epoch)
            generator.manual_seed(config.seed + epoch)
            totals = Totals(fabric=fabric)
            step_losses: list[Tensor] = []  # of the batches of one step
            unread: list[Tensor] = []  # of the last steps
            batches = Waited(train_loader)
            for place, batch in enumerate(batches):
                x, labels_B = fabric.to_device(batch)
                x = shift_and_rotate(
                    x,
                    max_shift=config.data.max_shift,
                    max_rotation_deg=config.data.max_rotation_deg,
                )
                first = place - place % config.accumulate  # of the batches of this step
                num_in_step = min(config.accumulate, num_batches - first)
                is_last = place == first + num_in_step - 1
                with fabric.no_backward_sync(placed_model, enabled=not is_last):
                    logits_BK = placed_model(x)
                    loss = F.cross_entropy(logits_BK, labels_B, weight=weight_K)
                    fabric.backward(loss / num_in_step)
                totals.add(logits_BK, labels_B, loss=loss)
                step_losses.append(loss.detach())
                if not is_last:
                    continue

                if config.optimizer.clip_norm > 0:
                    fabric.clip_gradients(
                        placed_model, placed_optimizer, max_norm=config.optimizer.clip_norm
                    )
                placed_optimizer.step()
                placed_optimizer.zero_grad()
                scheduler.step()
                if averaged is not None:
                    averaged.update_parameters(model)

                run.step += 1
                unread.append(torch.stack(step_losses).mean())
                step_losses.clear()
                trace.step()
                progress.advance()
                interrupt.check()
                if run.step % config.log_every_steps == 0 or run.step % steps_per_epoch == 0:
                    # The host waits for the device here, hence once per log_every_steps.
                    losses = mean_over_ranks(unread, fabric=fabric)
                    check_losses(losses, run=run)
                    unread.clear()
                    progress.status(
                        epoch,
                        loss=losses[-1],
                        accuracy=totals.accuracy,
                        samples_per_s=totals.num_samples * num_ranks / _since(epoch_started_at),
                    )
                    if log is not None:
                        log.step(run.step, loss=losses[-1], lr=float(scheduler.get_last_lr()[0]))
                        if gradient_norms is not None:
                            log.gradients(run.step, gradient_norms.read())
            totals.reduce()
            samples_per_s = totals.num_samples / _since(epoch_started_at)
            data_wait = batches.seconds / _since(epoch_started_at)

            # Validation: once over the held-out samples.
            val_totals = evaluate(
                run.evaluated,
                val_loader,
                fabric=fabric,
                num_calls=math.ceil(math.ceil(len(data.val) / num_ranks) / config.batch_size),
                spare=data.val[0][0],
            )
            metrics = {
                "train_loss": totals.loss,
                "train_accuracy": totals.accuracy,
                "val_loss": val_totals.loss,
                "val_accuracy": val_totals.accuracy,
            }
            check_losses([metrics["val_loss"]], run=run)

            row = {
                "epoch": epoch,
                "step": run.step,
                **metrics,
                "lr": float(scheduler.get_last_lr()[0]),
                "samples_per_s": samples_per_s,
                "data_wait": data_wait,
                "epoch_s": _since(epoch_started_at),
            }
            if log is not None:
                log.epoch(row)  # before the checkpoint, after which nobody would write it again
            save_began_at = time.monotonic()
            run.finish_epoch(metrics)
            progress.epoch(epoch, row, save_s=_since(save_began_at))

        # What to know about the best model: one rank tells, with a model that is not sharded.
        run.saving.wait()
        test_accuracy: float | None = None
        if log is not None and run.checkpoints.best_path.exists():
            best = load(run.checkpoints.best_path)
            best_model = rebuild(best["model"])
            best_model.load_state_dict(best["model_state_dict"])
            judged_on = data.test or data.val
            matrix_KK = confusion(
                best_model.to(fabric.device),
                DataLoader(judged_on, batch_size=config.batch_size, collate_fn=data.collate),
                num_classes=len(data.classes),
                device=fabric.device,
            )
            is_test = data.test is not None
            test_accuracy = accuracy(matrix_KK) if is_test else None
            picture = write_card(config.output, best, matrix_KK, is_test=is_test)
            log.best(run.step, confusion=picture, test_accuracy=test_accuracy)

    assert run.last_path is not None  # every epoch leaves a checkpoint, and there is at least one
    return TrainResult(
        best_checkpoint=run.checkpoints.best_path,
        last_checkpoint=run.last_path,
        loss=run.metrics["train_loss"],
        metrics=run.metrics,
        best_metrics=run.best,
        duration_s=_since(started_at),
        test_accuracy=test_accuracy,
    )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, int]],
    *,
    fabric: Fabric,
    num_calls: int,
    spare: Tensor,
) -> Totals:
    """Loss and accuracy over all ranks' samples.

    Args:
        model: Not wrapped for its peers.
        loader: This rank's samples.
        fabric: The peers.
        num_calls: Batches of the rank that has most. All ranks call the model as often, for a
            sharded one is put together by all of them in each call.
        spare: An input to call it with when there are none left.
    """
    model.eval()
    broadcast_buffers(model, fabric=fabric)
    totals = Totals(fabric=fabric)
    for batch in loader:
        x, labels_B = fabric.to_device(batch)
        with fabric.autocast():
            logits_BK = model(x).float()
        totals.add(logits_BK, labels_B, loss=F.cross_entropy(logits_BK, labels_B))
    for _ in range(num_calls - len(loader)):
        model(fabric.to_device(spare.unsqueeze(0)))
    totals.reduce()
    return totals


def check_losses(losses: Sequence[float], *, run: Run) -> None:
    """Stop before a checkpoint is made of weights that are beyond rescue.

    Args:
        losses: Of the last steps, the newest at the end.
        run: How far it is.

    Raises:
        NonFiniteLoss: One is NaN or infinite.
    """
    for step, loss in enumerate(losses, start=run.step - len(losses) + 1):
        if not math.isfinite(loss):
            good = run.last_path
            raise NonFiniteLoss(
                f"the loss is {loss} in epoch {run.epoch + 1}, step {step}; "
                + (f"the last good checkpoint is {good}; " if good else "no checkpoint yet; ")
                + "lower optimizer.lr or lengthen schedule.warmup_epochs, and look for odd inputs"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when trained, 1 when it failed, 2 for settings, 130 when interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Train a classifier; see docs/training.md.",
        epilog="settings: " + ", ".join(flatten(TrainConfig().to_mapping())),
    )
    parser.add_argument("config", nargs="?", type=Path, help="a TOML file; none for the defaults")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting")
    given = parser.parse_intermixed_args(arguments)
    path: Path | None = given.config
    overrides: list[str] = given.overrides
    if path is not None and "=" in str(path):
        path, overrides = None, [str(path), *overrides]
    try:
        config = read_config(path, overrides=overrides)
        result = train(config)
    except KeyboardInterrupt:
        print("interrupted; the same command with resume=auto continues", file=sys.stderr)
        return 130
    except FlambeauError as error:
        # An error from a loader's process arrives with that process's traceback above its message.
        print(f"error: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | DataError) else 1
    if int(os.environ.get("RANK", "0")) == 0:
        test = result.test_accuracy
        print(
            f"best val_accuracy {result.best_metrics['val_accuracy']:.4f}"
            + ("" if test is None else f", its test_accuracy {test:.4f}")
            + f": {result.best_checkpoint} ({result.duration_s:.1f} s)"
        )
    return 0


def _summary(run: Run) -> str:
    config, data = run.config, run.data
    num_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    done = f"; {run.epoch} epochs done, continuing {run.last_path}" if run.epoch else ""
    return (
        f"{config.model.name}, {num_parameters:,} parameters; {config.data.name}, "
        f"{len(data.train):,} samples to train on and {len(data.val):,} held out; "
        f"{run.fabric.world_size} x {run.fabric.device.type}; {config.output}{done}"
    )


def _since(started_at: float) -> float:
    return time.monotonic() - started_at


if __name__ == "__main__":
    sys.exit(main())
