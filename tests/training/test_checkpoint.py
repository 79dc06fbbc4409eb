from __future__ import annotations

import logging
import pickle
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch

from flambeau.image import ImageTransform
from training.checkpoint import Checkpoint, Checkpoints, load, save
from training.config import ImageConfig, TrainConfig
from training.data import load_data
from training.errors import CheckpointError
from training.models import rebuild

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.faults.collected import RecordProperty
    from training.train import TrainResult


@pytest.fixture
def checkpoint(trained: TrainResult) -> Checkpoint:
    return load(trained.last_checkpoint)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "several", keep=3)
    checkpoints.prepare()
    return checkpoints


@contextmanager
def full_disk(*, num_bytes: int) -> Generator[None, None, None]:
    """Files can grow to this size and no further: writing fails with an OSError, as on a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_epochs(checkpoints: Checkpoints, checkpoint: Checkpoint, accuracies: list[float]) -> None:
    best: dict[str, float] = {}
    for epoch, accuracy in enumerate(accuracies, start=1):
        metrics = {**checkpoint["metrics"], "val_accuracy": accuracy}
        if not best or accuracy > best["val_accuracy"]:
            best = metrics
        checkpoint["epoch"], checkpoint["metrics"], checkpoint["best"] = epoch, metrics, best
        checkpoints.save(checkpoint)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.directory.iterdir())


def test_a_checkpoint_loads_without_pickle_and_rebuilds_its_model(trained: TrainResult) -> None:
    content = torch.load(trained.best_checkpoint, weights_only=True)
    model = rebuild(content["model"])
    model.load_state_dict(content["model_state_dict"])
    logits = model.eval()(content["samples"])
    assert logits.shape == (16, len(content["classes"]))
    assert (logits.argmax(dim=1) == content["sample_labels"]).float().mean() > 0.7
    assert content["input"] == {"name": "x", "dtype": "float32", "shape": [4]}
    assert content["image"] is None
    assert len(content["feature_names"]) == 4
    assert TrainConfig.from_mapping(content["config"]).data.table == "iris"
    assert len(content["data_digest"]) == 64
    assert content["torch_version"] == str(torch.__version__)


def test_an_image_mapping_in_a_checkpoint_is_what_serving_reads() -> None:
    data = load_data(TrainConfig().data, image=ImageConfig())
    assert data.image is not None
    mapping = data.image.to_mapping()
    assert mapping == {
        "mode": "L",
        "resize": 32,
        "size": [32, 32],
        "mean": [0.5],
        "std": [0.5],
        "interpolation": "bilinear",
    }
    assert ImageTransform.from_mapping(mapping) == data.image


def test_the_last_few_and_the_best_are_kept(
    checkpoints: Checkpoints, checkpoint: Checkpoint
) -> None:
    save_epochs(checkpoints, checkpoint, [0.5, 0.9, 0.8, 0.7, 0.6])
    assert names(checkpoints) == [
        "best.pt",
        "epoch-00003.pt",
        "epoch-00004.pt",
        "epoch-00005.pt",
    ]
    assert load(checkpoints.best_path)["epoch"] == 2


def test_a_truncated_newest_checkpoint_gives_way_to_the_one_before(
    checkpoints: Checkpoints,
    checkpoint: Checkpoint,
    caplog: pytest.LogCaptureFixture,
    record_property: RecordProperty,
) -> None:
    record_property("case", "C16 checkpoints")
    record_property("truncated", 1)
    save_epochs(checkpoints, checkpoint, [0.5, 0.6, 0.7])
    newest, previous = checkpoints.paths()[:2]
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        found = checkpoints.newest()
    assert found is not None
    assert (found[0], found[1]["epoch"]) == (previous, 2)
    assert str(newest) in caplog.text
    assert f"continuing from {previous}" in caplog.text


def test_one_flipped_bit_is_noticed(
    trained: TrainResult, checkpoint: Checkpoint, record_property: RecordProperty
) -> None:
    record_property("case", "C16 checkpoints")
    record_property("flipped", 1)
    weights = checkpoint["model_state_dict"]["layers.0.weight"].numpy().tobytes()
    content = bytearray(trained.last_checkpoint.read_bytes())
    content[content.index(weights) + 5] ^= 1
    trained.last_checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged: the checksum of"):
        load(trained.last_checkpoint)


def test_if_every_checkpoint_is_damaged_all_are_named(checkpoints: Checkpoints) -> None:
    paths = [checkpoints.path(epoch) for epoch in (1, 2)]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        checkpoints.newest()
    assert all(str(path) in str(caught.value) for path in paths)


def test_where_there_is_no_checkpoint_there_is_no_newest(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None


def test_a_full_disk_names_the_file_and_leaves_only_whole_ones(
    checkpoints: Checkpoints, checkpoint: Checkpoint
) -> None:
    save_epochs(checkpoints, checkpoint, [0.5, 0.4])
    before = names(checkpoints)
    checkpoint["epoch"] = 3
    with (
        full_disk(num_bytes=10_000),
        pytest.raises(CheckpointError, match=r"epoch-00003\.pt \([\d,]+ bytes\): File too large"),
    ):
        checkpoints.save(checkpoint)
    assert names(checkpoints) == before
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[1]["epoch"] == 2


def test_what_a_killed_run_left_half_written_is_removed(checkpoints: Checkpoints) -> None:
    (checkpoints.directory / ".epoch-00001.pt.12ab34cd.part").write_bytes(b"half")
    checkpoints.prepare()
    assert names(checkpoints) == []


def test_a_file_that_is_no_checkpoint_of_ours_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=f"{path} is not a checkpoint of ours: .*rng_states"):
        load(path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load(path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "evil.pt"
    torch.save({**checkpoint, "metrics": pickle.Unpickler}, path)
    with pytest.raises(
        CheckpointError, match=r"loads safely: it names _?pickle\.Unpickler, [^\n]*$"
    ):
        load(path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"cannot make .*file/checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1).prepare()


def test_saving_over_a_checkpoint_replaces_it(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "one.pt"
    save(path, checkpoint)
    checkpoint["step"] = 99
    save(path, checkpoint)
    assert load(path)["step"] == 99
    assert list(tmp_path.glob(".*")) == []
