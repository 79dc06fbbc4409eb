from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flambeau.errors import ConfigError
from tests.training.test_data import COLOUR, make_image_folder, make_mnist
from training.config import DataConfig, ImageConfig, TrainConfig, read_config
from training.data import load_data
from training.errors import DataError
from training.splits import split
from training.train import main, train

LABELS = np.repeat([0, 1, 2], [50, 30, 20])


def test_three_splits_share_nothing_cover_all_and_keep_the_mix_of_classes() -> None:
    parts = split(LABELS, DataConfig(val_fraction=0.2, test_fraction=0.1))
    assert parts.test is not None
    everything = np.concatenate([parts.train, parts.val, parts.test])
    assert sorted(everything) == list(range(100))
    assert np.bincount(LABELS[parts.val]).tolist() == [10, 6, 4]
    assert np.bincount(LABELS[parts.test]).tolist() == [5, 3, 2]


def test_a_test_split_leaves_the_validation_split_as_it_is() -> None:
    without = split(LABELS, DataConfig())
    beside = split(LABELS, DataConfig(test_fraction=0.1))
    assert without.test is None
    assert sorted(without.val) == sorted(beside.val)


def test_the_seed_decides_what_is_tested() -> None:
    parts = [split(LABELS, DataConfig(test_fraction=0.2, split_seed=seed)) for seed in (0, 0, 1)]
    first, again, other = ([] if each.test is None else each.test.tolist() for each in parts)
    assert first == again != other


def test_splits_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"val_fraction is 0\.6 and data\.test_fraction 0\.4"):
        DataConfig(val_fraction=0.6, test_fraction=0.4)


def test_mnist_tests_on_its_test_files_where_a_test_is_asked_for(tmp_path: Path) -> None:
    config = DataConfig(name="mnist", root=make_mnist(tmp_path), test_fraction=0.1)
    data = load_data(config, image=ImageConfig())
    val_only = load_data(replace(config, test_fraction=0.0), image=ImageConfig())
    assert data.test is not None
    assert data.digest == val_only.digest
    assert data.test.labels_N.tolist() == val_only.val.labels_N.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(data.test[2][0], val_only.val[2][0])
    assert len(data.train) + len(data.val) == len(val_only.train) == 6


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "val"), ("train", "test")])
def test_folders_with_splits_in_them_are_taken_as_they_are(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for count, name in enumerate(names, start=4):
        make_image_folder(tmp_path / name, num_images=count)
    data = load_data(DataConfig(name="image_folder", root=tmp_path), image=COLOUR)
    assert data.classes == ["blue", "red"]
    sizes = (len(data.train), len(data.val), data.test and len(data.test))
    expected = {"train,val,test": (8, 10, 12), "train,val": (8, 10, None), "train,test": (6, 2, 10)}
    assert sizes == expected[",".join(names)]


def test_a_class_that_is_not_trained_is_named(tmp_path: Path) -> None:
    for name in ("train", "val"):
        make_image_folder(tmp_path / name, num_images=2)
    shutil.copytree(tmp_path / "val" / "red", tmp_path / "val" / "pink")
    with pytest.raises(DataError, match=r"val/pink is of a class that is not in train \(blue, red"):
        load_data(DataConfig(name="image_folder", root=tmp_path), image=COLOUR)
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="val has 0 folders; give one per class"):
        load_data(DataConfig(name="image_folder", root=tmp_path), image=COLOUR)


def test_the_best_checkpoint_is_tested_on_what_it_never_saw(
    iris: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = iris.output.parent / "iris.toml"
    path.write_text('epochs = 3\nnum_threads = 1\nmodel.name = "mlp"\noptimizer.lr = 0.05\n')
    overrides = ["data.name=tabular", "data.table=iris", "data.test_fraction=0.2"]
    assert main([str(path), *overrides, f"output={iris.output}"]) == 0
    report = json.loads((iris.output / "test.json").read_text())
    assert report["num_samples"] == 30
    assert [row["support"] for row in report["classes"]] == [10, 10, 10]
    assert f"its test_accuracy {report['accuracy']:.4f}: " in capsys.readouterr().out
    card = (iris.output / "card.md").read_text()
    assert f"{report['accuracy']:.2%} of 30 test samples are right. They had no part" in card


def test_without_a_test_split_nothing_is_said_of_one(iris: TrainConfig) -> None:
    result = train(iris)
    assert result.test_accuracy is None
    assert not (iris.output / "test.json").exists()
    assert read_config(None).data.test_fraction == 0
