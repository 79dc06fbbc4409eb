from __future__ import annotations

from pathlib import Path

import pytest
import torch

import training
from flambeau import torchscript
from flambeau.errors import ConfigError
from training.config import DataConfig, ImageConfig, ModelConfig, TextConfig, read_config
from training.data import load_data
from training.models import model_spec, rebuild
from training.train import train
from training.transformer import TransformerTextClassifier

CONFIG = Path(training.__file__).parent / "configs" / "text_transformer.toml"
MAX_TOKENS = 24


def classifier() -> TransformerTextClassifier:
    torch.manual_seed(0)
    model = TransformerTextClassifier(num_classes=3, vocab_size=50, max_tokens=MAX_TOKENS, width=16)
    return model.eval()


def texts(num_texts: int, length: int) -> torch.Tensor:
    """Of one token up to `length`, and padding behind."""
    tokens_BT = torch.randint(1, 50, (num_texts, length))
    ends_B1 = torch.linspace(1, length, num_texts).long().unsqueeze(1)
    return tokens_BT * (torch.arange(length) < ends_B1)


def test_padding_changes_no_answer() -> None:
    model = classifier()
    tokens_BT = texts(7, 12)
    longer = torch.nn.functional.pad(tokens_BT, (0, MAX_TOKENS - 12))
    torch.testing.assert_close(model(longer), model(tokens_BT), atol=1e-5, rtol=0)
    for row_T in tokens_BT:
        alone = model(row_T[row_T != 0].unsqueeze(0))
        torch.testing.assert_close(alone, model(row_T.unsqueeze(0)), atol=1e-5, rtol=0)


def test_order_and_tokens_matter() -> None:
    model = classifier()
    answers = model(torch.tensor([[3, 4, 5], [5, 4, 3], [3, 4, 6]]))
    assert (answers[0] - answers[1]).abs().max() > 1e-4
    assert (answers[0] - answers[2]).abs().max() > 1e-4


def test_a_text_of_nothing_has_an_answer() -> None:
    assert classifier()(torch.zeros(2, 5, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize("way", ["trace", "script", "export"])
def test_programs_follow_batch_and_length(way: str) -> None:
    model, example = classifier(), texts(3, 10)
    if way == "trace":
        program: torch.nn.Module = torchscript.trace(model, [example])
    elif way == "script":
        program = torchscript.script(model)
    else:
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=MAX_TOKENS)}
        program = torch.export.export(model, (example,), dynamic_shapes=(sizes,)).module()
    for num_texts, length in ((1, 1), (2, 2), (1, 10), (5, MAX_TOKENS), (3, 7)):
        tokens_BT = texts(num_texts, length)
        torch.testing.assert_close(program(tokens_BT), model(tokens_BT), atol=1e-5, rtol=0)


def test_a_specification_rebuilds_a_model_that_fits_the_texts() -> None:
    text = TextConfig(tokenizer="characters", vocab_size=90, max_tokens=40)
    data = load_data(DataConfig(name="code_lines"), image=ImageConfig(), text=text)
    config = ModelConfig(name="transformer", width=32, num_layers=1, num_heads=2)
    model = rebuild(model_spec(config, data)).eval()
    assert isinstance(model, TransformerTextClassifier)
    assert model.embedding.weight.shape == (90, 32)
    tokens_BT, _ = data.collate([data.val[index] for index in range(5)])
    assert model(tokens_BT).shape == (5, 4)


def test_settings_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.width is 10; use a multiple of"):
        ModelConfig(name="transformer", width=10, num_heads=4)
    with pytest.raises(ConfigError, match=r"cannot read data\.name=code_lines; use transformer"):
        read_config(None, overrides=["data.name=code_lines"])


@pytest.mark.slow
def test_the_config_tells_most_lines_apart_after_one_epoch(tmp_path: Path) -> None:
    overrides = [f"output={tmp_path}", "device=cpu", "epochs=1", "schedule.warmup_epochs=0.2"]
    result = train(read_config(CONFIG, overrides=overrides))
    assert result.test_accuracy is not None
    assert result.test_accuracy >= 0.80
