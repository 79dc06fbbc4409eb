from __future__ import annotations

from pathlib import Path

import pytest

import training
from flambeau.errors import ConfigError
from training.config import DataConfig, ImageConfig, TrainConfig, read_config

CONFIGS = sorted((Path(training.__file__).parent / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_that_comes_with_the_code_is_valid(path: Path) -> None:
    assert read_config(path).output == Path("runs") / path.stem


def test_an_override_wins_over_the_file_and_a_later_one_over_an_earlier() -> None:
    config = read_config(CONFIGS[0], overrides=["epochs=2", "epochs=3"])
    assert config.epochs == 3


def test_an_override_takes_the_type_of_its_field() -> None:
    config = read_config(
        None,
        overrides=[
            "optimizer.lr=1",
            "output=2024",
            "image.mean=[0.25]",
            "model.small_images=true",
            "data.root=/data",
        ],
    )
    assert config.optimizer.lr == 1.0
    assert isinstance(config.optimizer.lr, float)
    assert config.output == Path("2024")
    assert config.image.mean == (0.25,)
    assert config.model.small_images is True
    assert config.data.root == Path("/data")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "there is no setting 'epoch'; did you mean 'epochs'?"),
        ("lr=3", "did you mean 'optimizer.lr'?"),
        ("optimiser.momentun=0", "did you mean 'optimizer.momentum'?"),
        ("xyz=3", "the settings are output, resume, "),
        ("epochs", "write key=value"),
    ],
)
def test_a_wrong_key_names_the_nearest_or_all(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(None, overrides=[override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=0", "epochs is 0; use a whole number of 1 or more"),
        ("epochs=ten", "epochs is 'ten'; use a whole number"),
        ("epochs=1.5", "epochs is 1.5; use a whole number"),
        ("epochs=true", "epochs is True; use a whole number"),
        ("optimizer.lr=0", "optimizer.lr is 0; use a number above 0"),
        ("optimizer.lr=nan", "optimizer.lr is nan; use a number above 0"),
        ("optimizer.momentum=1", "of 0 or more and at most 0.999"),
        ("model.name=lenet", "model.name is 'lenet'; use one of lenet5, resnet18, resnet50, mlp"),
        ("image.std=[0]", "image.std is [0]; use a list, each a number above 0"),
        ("image.mean=[0.5, 0.5]", "image.mean has 2 values; image.mode=L needs 1"),
        ("image.size=64", "larger than image.resize, 32"),
        ("model.name=mlp", "model.name is mlp, which cannot read data.name=digits"),
        ("data.name=mnist", "data.root=DIRECTORY"),
        ("data.download=true", "data.name=digits has nothing to fetch"),
        ("image.size=28", "image.size is 28; model.name=lenet5 needs 32"),
    ],
)
def test_a_wrong_value_names_itself_and_what_fits(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(None, overrides=[override])
    assert message in str(caught.value)


def test_a_section_built_in_code_is_checked_as_well() -> None:
    with pytest.raises(ConfigError, match=r"data\.val_fraction is 2"):
        DataConfig(val_fraction=2)
    with pytest.raises(ConfigError, match=r"image\.mean has 1 values; image\.mode=RGB needs 3"):
        ImageConfig(mode="RGB")


def test_a_config_comes_back_from_plain_data_unchanged() -> None:
    for path in CONFIGS:
        config = read_config(path, overrides=["data.root=/data"])
        assert TrainConfig.from_mapping(config.to_mapping()) == config


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=f"cannot read the config {missing}"):
        read_config(missing)
    broken = tmp_path / "broken.toml"
    broken.write_text("epochs = \n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{broken} is not TOML"):
        read_config(broken)
