from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flambeau.errors import ConfigError
from training.code_lines import code_lines
from training.config import DataConfig, ImageConfig, TextConfig
from training.data import load_data
from training.errors import DataError
from training.splits import DataSet
from training.text import padded

TEXTS = {
    "cat": [f"a cat says meow {number} times" for number in range(10)],
    "dog": [f"the dog barks {number} times" for number in range(10)],
}


def make_folders(root: Path) -> Path:
    for name, texts in TEXTS.items():
        (root / name).mkdir(parents=True)
        for number, text in enumerate(texts):
            (root / name / f"{number}.txt").write_text(text, encoding="utf-8")
    return root


def make_file(root: Path, name: str) -> Path:
    rows = [(text, kind) for kind, texts in TEXTS.items() for text in texts]
    if name.endswith("jsonl"):
        lines = [json.dumps({"text": text, "label": kind}) for text, kind in rows]
    else:
        tab = "\t" if name.endswith("tsv") else ","
        lines = [f"text{tab}label", *(f"{text}{tab}{kind}" for text, kind in rows)]
    (root / name).write_text("\n".join(lines), encoding="utf-8")
    return root / name


def load(root: Path, *, text: TextConfig | None = None, **settings: object) -> DataSet:
    config = DataConfig(name="text", root=root, **settings)  # type: ignore[arg-type]  # a test's
    return load_data(config, image=ImageConfig(), text=text)


def shown(data: DataSet, tokens: torch.Tensor) -> str:
    assert data.tokenizer is not None
    return "".join(data.tokenizer.tokens[index] for index in tokens.tolist())


@pytest.mark.parametrize("source", ["folders", "x.csv", "x.tsv", "x.jsonl"])
def test_texts_in_folders_and_in_a_file_are_the_same(tmp_path: Path, source: str) -> None:
    if source == "folders":
        data = load(make_folders(tmp_path / "texts"))
    else:
        data = load(make_file(tmp_path, source))
    assert data.classes == ["cat", "dog"]
    assert data.input_dtype == torch.int64
    assert (len(data.train), len(data.val)) == (16, 4)
    for tokens, label in (data.train[index] for index in range(16)):
        assert shown(data, tokens) in TEXTS[data.classes[label]]


def test_tokens_come_from_the_training_texts_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    lines = [f"{chr(0x4E00 + number)},{number % 2}" for number in range(20)]
    path.write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    data = load(path, text=TextConfig(tokenizer="characters"))
    assert data.tokenizer is not None
    assert len(data.tokenizer.tokens) == 2 + 16
    assert [data.val[index][0].tolist() for index in range(4)] == [[1]] * 4


def test_a_batch_is_as_long_as_its_longest_text() -> None:
    tokens_BT, labels_B = padded([(torch.tensor([5, 6, 7]), 1), (torch.tensor([8]), 0)])
    assert tokens_BT.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert labels_B.tolist() == [1, 0]


def test_the_digest_tells_the_texts_apart(tmp_path: Path) -> None:
    first = load(make_file(tmp_path, "x.csv")).digest
    assert load(make_file(tmp_path, "x.jsonl"), split_seed=3).digest == first
    (tmp_path / "x.csv").write_text((tmp_path / "x.csv").read_text().replace("meow", "miau"))
    assert load(tmp_path / "x.csv").digest != first


def test_lines_of_code_come_with_the_packages_that_are_installed() -> None:
    text = TextConfig(tokenizer="characters", max_tokens=1000)
    data = load_data(DataConfig(name="code_lines"), image=ImageConfig(), text=text)
    assert data.classes == ["c++", "cmake", "english", "python"]
    assert np.bincount(data.train.labels_N).tolist() == [960] * 4
    again, _, _ = code_lines()
    assert shown(data, data.train[7][0]) in again


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\n ,cat\n", "line 2, column 'text' is empty; give it a text"),
        (b"text,label\na,\n", "line 2, column 'label' is empty"),
        (b"text,label\na,x\nb,x\n", "has 1 class ('x')"),
        (b"text,label\na,x\nb,y\n", "fewer than 2 rows of 'x' (1), 'y' (1)"),
        (b"label,text\nx,a\n", "would be both the text and the class"),
        (b"text,label\na\xff,x\n", "line 2: byte 0xff is not UTF-8"),
    ],
)
def test_odd_rows_are_named_with_their_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "x.csv")
    assert message in str(caught.value)


def test_odd_files_of_folders_are_named(tmp_path: Path) -> None:
    root = make_folders(tmp_path)
    (root / "dog" / "3.txt").write_bytes(b"woof\nwo\xffof")
    with pytest.raises(DataError, match=r"dog/3\.txt, line 2: byte 0xff is not UTF-8"):
        load(root)
    (root / "dog" / "3.txt").write_text("\n")
    with pytest.raises(DataError, match=r"dog/3\.txt is empty; give it a text"):
        load(root)
    (root / "dog" / "3.txt").write_text("x" * 1_000_001)
    with pytest.raises(DataError, match=r"dog/3\.txt has 1,000,001 characters"):
        load(root)


def test_a_wrong_text_column_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.text_column is 'texts', .*did you mean 'text'"):
        load(make_file(tmp_path, "x.csv"), text_column="texts")
    with pytest.raises(DataError, match=r"cannot read .*none\.csv: No such file"):
        load(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is not a directory; give one folder per class"):
        load(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"data\.root is not set; data\.name=text reads files"):
        DataConfig(name="text")
