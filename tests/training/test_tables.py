from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flambeau import torchscript
from flambeau.errors import ConfigError
from training.checkpoint import load
from training.config import DataConfig, ImageConfig, TrainConfig
from training.data import load_data
from training.errors import DataError
from training.models import fit_statistics, mlp, model_spec, rebuild
from training.perceptron import MLP
from training.splits import DataSet
from training.tables import TableSplit
from training.train import train

HEADER = "age,colour,size,kind\n"


def fruit(num_rows: int = 30) -> str:
    """Ripe ones are large, and green ones are not; ages are years, sizes metres."""
    rows: list[str] = []
    for number in range(num_rows):
        ripe = number % 2 == 0
        colour = ("green", "blue")[number % 3 == 0] if not ripe else "red"
        rows.append(f"{number},{colour},{0.5 + ripe + number / 100},{'ripe' if ripe else 'raw'}\n")
    return HEADER + "".join(rows)


def table(path: Path, content: str, **settings: object) -> DataSet:
    path.write_text(content, encoding="utf-8")
    config = replace(DataConfig(name="tabular", root=path), **settings)  # type: ignore[arg-type]  # a test's
    return load_data(config, image=ImageConfig())


def test_numbers_stay_in_their_units_and_other_values_have_numbers(tmp_path: Path) -> None:
    data = table(tmp_path / "fruit.csv", fruit())
    assert data.classes == ["raw", "ripe"]
    assert data.feature_names == ["age", "colour", "size"]
    assert data.categories == {"colour": ["blue", "green", "red"]}
    assert data.input_shape == (3,)
    assert (len(data.train), len(data.val)) == (24, 6)
    for x, label in (data.train[index] for index in range(len(data.train))):
        age, colour, size = x.tolist()
        assert label == int(age % 2 == 0)
        assert colour == (3 if label else 1 if age % 3 == 0 else 2)
        assert size == pytest.approx(0.5 + label + age / 100)


def test_any_column_may_be_the_label_and_numbers_sort_as_such(tmp_path: Path) -> None:
    content = "class,a\n" + "".join(f"{number % 3 * 5},{number}\n" for number in range(12))
    data = table(tmp_path / "x.csv", content, label_column="class")
    assert data.classes == ["0", "5", "10"]
    assert data.feature_names == ["a"]
    assert data.categories is None


def test_a_value_that_training_rows_lack_is_none_of_the_categories(tmp_path: Path) -> None:
    content = "c,y\n" + "".join(f"v{number},{number % 2}\n" for number in range(20))
    data = table(tmp_path / "x.csv", content, val_fraction=0.5)
    assert isinstance(data.val, TableSplit)
    assert data.val.features_NF.flatten().tolist() == [0] * 10


def test_the_model_standardises_numbers_and_spreads_categories(tmp_path: Path) -> None:
    data = table(tmp_path / "fruit.csv", fruit())
    assert isinstance(data.train, TableSplit)
    model = mlp(num_features=3, num_classes=2, hidden=[4], num_categories=[0, 3, 0]).eval()
    fit_statistics(model, data)
    raw = data.train.features_NF
    standard = (raw - raw.mean(dim=0)) / raw.std(dim=0)
    one_hot = torch.nn.functional.one_hot(raw[:, 1].long(), 4)[:, 1:]
    inputs = torch.cat([standard[:, :1], one_hot, standard[:, 2:]], dim=1)
    torch.testing.assert_close(model(raw), model.layers(inputs))
    unknown = raw.clone()
    unknown[:, 1] = 0
    inputs[:, 1:4] = 0
    torch.testing.assert_close(model(unknown), model.layers(inputs))


def test_a_trained_table_is_rebuilt_from_its_checkpoint_alone(tmp_path: Path) -> None:
    (tmp_path / "fruit.csv").write_text(fruit(60), encoding="utf-8")
    config = TrainConfig(
        output=tmp_path / "run",
        epochs=5,
        num_threads=1,
        data=DataConfig(name="tabular", root=tmp_path / "fruit.csv"),
        model=replace(TrainConfig().model, name="mlp", hidden=(8,)),
        optimizer=replace(TrainConfig().optimizer, lr=0.05),
    )
    result = train(config)
    assert result.metrics["val_accuracy"] == 1
    checkpoint = load(result.best_checkpoint)
    assert checkpoint.get("categories") == {"colour": ["blue", "green", "red"]}
    model = rebuild(checkpoint["model"])
    assert isinstance(model, MLP)
    model.load_state_dict(checkpoint["model_state_dict"])
    script = torchscript.script(model.eval())
    torch.testing.assert_close(script(checkpoint["samples"]), model(checkpoint["samples"]))
    assert (
        "3 numbers, in the units of the data, 1 of them" in (config.output / "card.md").read_text()
    )


def test_a_table_of_numbers_needs_no_categories(tmp_path: Path) -> None:
    data = table(tmp_path / "x.csv", "a,y\n1,0\n2,1\n3,0\n4,1\n")
    assert "num_categories" not in model_spec(TrainConfig().model, data)["kwargs"]


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (fruit() + ",red,1,raw\n", {}, "line 32, column 'age' is empty; fill it in"),
        (fruit() + "3,red,1, \n", {}, "line 32, column 'kind' is empty"),
        (fruit() + "old,red,1,raw\n", {}, "line 32, column 'age' is 'old', where other rows have"),
        (fruit() + "1e39,red,1,raw\n", {}, "line 32, column 'age' is 1e39; use a number"),
        (fruit() + "nan,red,1,raw\n", {}, "line 32, column 'age' is nan; use a number"),
        (fruit() + "3,red,1,odd\n", {}, "fewer than 2 rows of 'odd' (1); a class needs 2 or more"),
        (HEADER + "1,red,2,a\n2,red,2,a\n", {}, "has 1 class ('a'); a classifier needs 2 or more"),
        ("y\n1\n2\n1\n2\n", {}, "has no column beside 'y', the label"),
        (fruit(4), {"test_fraction": 0.2}, "fewer than 3 rows of 'raw' (2), 'ripe' (2)"),
        (
            "id,y\n" + "".join(f"n{number},{number % 2}\n" for number in range(400)),
            {},
            "column 'id' has 320 different values; at most 256 can be categories",
        ),
    ],
)
def test_odd_values_are_named_with_their_place(
    tmp_path: Path, content: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        table(tmp_path / "fruit.csv", content, **settings)
    assert message in str(caught.value)
    assert "fruit.csv" in str(caught.value)


def test_a_column_of_codes_can_be_named_as_categories(tmp_path: Path) -> None:
    data = table(tmp_path / "x.csv", fruit() + "old,red,1,raw\n", categories=("age",))
    assert data.categories is not None
    assert "17" in data.categories["age"] or "18" in data.categories["age"]


@pytest.mark.parametrize("setting", ["label_column", "categories"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, setting: str) -> None:
    value: object = "colours" if setting == "label_column" else ("colours",)
    with pytest.raises(ConfigError, match=f"data.{setting} is 'colours', .*did you mean 'colour'"):
        table(tmp_path / "fruit.csv", fruit(), **{setting: value})
