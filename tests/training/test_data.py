from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.config import DataConfig, ImageConfig
from training.data import TableSplit, load_data, write_png_samples
from training.errors import DataError

COLOUR = ImageConfig(mode="RGB", resize=40, size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def make_image_folder(root: Path, *, num_images: int = 10) -> Path:
    """Two classes of noise, red and blue, in sizes and formats that differ."""
    random = np.random.RandomState(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (root / name).mkdir(parents=True)
        for index in range(num_images):
            pixels = random.randint(0, 60, size=(40 + index, 50, 3), dtype=np.uint8)
            pixels[..., channel] += 180
            suffix = ("png", "jpg")[index % 2]
            Image.fromarray(pixels).save(root / name / f"{index}.{suffix}")
        (root / name / "notes.txt").write_text("not an image", encoding="utf-8")
    return root


def write_idx(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def make_mnist(root: Path, *, num_labels: int = 6) -> Path:
    random = np.random.RandomState(0)
    for prefix in ("train", "t10k"):
        images = random.randint(0, 256, size=(6, 28, 28), dtype=np.uint8)
        write_idx(root / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{prefix}-labels-idx1-ubyte.gz", np.arange(num_labels, dtype=np.uint8))
    return root


def test_digits_become_normalised_images_of_the_configured_size() -> None:
    data = load_data(DataConfig(), image=ImageConfig())
    x, label = data.train[0]
    assert x.dtype == torch.float32
    assert tuple(x.shape) == data.input_shape == (1, 32, 32)
    assert x.min() == -1.0
    assert data.classes[label] in "0123456789"


def test_splits_share_no_sample_cover_all_and_keep_the_mix_of_classes() -> None:
    data = load_data(DataConfig(val_fraction=0.25), image=ImageConfig())
    rows = [split[i][0].numpy().tobytes() for split in (data.train, data.val) for i in range(20)]
    assert len(data.train) + len(data.val) == 1797
    assert len(set(rows)) == 40
    counts = np.bincount(data.val.labels_N)
    assert counts.min() >= 43
    assert counts.max() <= 46


def test_the_split_depends_on_split_seed_alone() -> None:
    labels = [
        load_data(DataConfig(split_seed=seed), image=ImageConfig()).val.labels_N.tolist()
        for seed in (0, 0, 1)
    ]
    assert labels[0] == labels[1]
    assert labels[0] != labels[2]


def test_the_digest_tells_content_not_the_split() -> None:
    first = load_data(DataConfig(), image=ImageConfig())
    other_split = load_data(DataConfig(split_seed=5), image=ImageConfig())
    other_data = load_data(DataConfig(name="tabular"), image=ImageConfig())
    assert first.digest == other_split.digest
    assert first.digest != other_data.digest
    assert len(first.digest) == 64


def test_a_sample_written_as_png_is_served_the_tensor_that_was_trained_on(tmp_path: Path) -> None:
    data = load_data(DataConfig(), image=ImageConfig())
    assert data.image is not None
    samples = write_png_samples(data.val, tmp_path / "digits", 5)
    assert len(samples) == 5
    for index, (path, label) in enumerate(samples):
        x, expected_label = data.val[index]
        with Image.open(path) as image:
            assert image.size == (8, 8)
            assert torch.equal(torch.from_numpy(data.image(image)), x)
        assert label == expected_label


def test_an_image_folder_gives_its_folders_as_classes(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path)
    data = load_data(DataConfig(name="image_folder", root=root), image=COLOUR)
    assert data.classes == ["blue", "red"]
    assert (len(data.train), len(data.val)) == (16, 4)
    assert sorted(data.val.labels_N) == [0, 0, 1, 1]
    for x, label in (data.val[index] for index in range(4)):
        assert x.shape == (3, 32, 32)
        assert x.mean(dim=(1, 2)).argmax() == {"blue": 2, "red": 0}[data.classes[label]]


def test_an_image_folder_notices_that_a_file_changed(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path)
    before = load_data(DataConfig(name="image_folder", root=root), image=COLOUR).digest
    Image.new("RGB", (40, 40)).save(root / "red" / "0.png")
    after = load_data(DataConfig(name="image_folder", root=root), image=COLOUR).digest
    assert before != after


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path, num_images=2)
    for path in root.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:60])
    data = load_data(DataConfig(name="image_folder", root=root), image=COLOUR)
    with pytest.raises(DataError, match=r"cannot read the image .*0\.png"):
        [split[index] for split in (data.train, data.val) for index in range(2)]


def test_a_folder_without_classes_or_images_says_so(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(DataError, match=f"{missing}, is not a directory; give one folder per"):
        load_data(DataConfig(name="image_folder", root=missing), image=COLOUR)
    with pytest.raises(DataError, match="has 0 folders; give one per class"):
        load_data(DataConfig(name="image_folder", root=tmp_path), image=COLOUR)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="cat has 0 images; a class needs 2"):
        load_data(DataConfig(name="image_folder", root=tmp_path), image=COLOUR)


def test_mnist_holds_out_its_test_files(tmp_path: Path) -> None:
    config = DataConfig(name="mnist", root=make_mnist(tmp_path))
    data = load_data(config, image=ImageConfig())
    assert data.val.labels_N.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.classes == ["0", "1", "2", "3", "4", "5"]
    assert data.train[0][0].shape == (1, 32, 32)


def test_mnist_files_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    config = DataConfig(name="mnist", root=make_mnist(tmp_path, num_labels=5))
    with pytest.raises(DataError, match=r"6 images and .*labels-idx1-ubyte\.gz 5 labels"):
        load_data(config, image=ImageConfig())


def test_tables_stay_in_the_units_they_come_in() -> None:
    data = load_data(DataConfig(name="tabular", table="wine"), image=ImageConfig())
    assert isinstance(data.train, TableSplit)
    assert data.feature_names is not None
    assert len(data.feature_names) == data.input_shape[0] == 13
    proline = data.train.features_NF[:, data.feature_names.index("proline")]
    assert 200 < proline.min() < proline.max() < 2000
    assert data.image is None
