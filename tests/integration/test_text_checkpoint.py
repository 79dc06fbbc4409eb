"""From texts to a server that reads them: trained, exported, and asked in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flambeau.exporting.checkpoint import export_checkpoint
from tests.integration.server import running_server
from training.config import read_config
from training.train import train

if TYPE_CHECKING:
    from pathlib import Path

WORDS = {"fruit": ["apple", "pear", "plum", "grape"], "tool": ["hammer", "saw", "drill", "file"]}
SETTINGS = (
    *("data.name=text", "text.max_tokens=32", "epochs=5", "num_threads=1", "device=cpu"),
    *("model.name=transformer", "model.width=16", "model.num_layers=1", "optimizer.lr=0.01"),
)


@pytest.mark.slow
def test_a_text_checkpoint_answers_sentences_with_classes(tmp_path: Path) -> None:
    lines = [
        f"I bought {number} {word}s\t{kind}"
        for kind, words in WORDS.items()
        for word in words
        for number in range(15)
    ]
    path = tmp_path / "texts.tsv"
    path.write_text("\n".join(["text\tlabel", *lines]), encoding="utf-8")
    overrides = [*SETTINGS, f"data.root={path}", f"output={tmp_path / 'run'}"]
    trained = train(read_config(None, overrides=overrides))
    report = export_checkpoint(
        trained.best_checkpoint, name="goods", version="1.0", path=tmp_path / "store"
    )
    with running_server(tmp_path / "store", models=[report.path.name]) as server:
        for sentence, kind in (("I bought 3 pears", "fruit"), ("I bought a saw", "tool")):
            response = server.inference.post(
                "/predictions/goods",
                content=sentence,
                headers={"content-type": "text/plain; charset=utf-8"},
            )
            assert response.status_code == 200, response.text
            shares = response.json()
            assert list(shares) == ["fruit", "tool"]
            assert sum(shares.values()) == pytest.approx(1)
            assert max(shares, key=shares.get) == kind
        assert server.inference.post("/predictions/goods", content=b"").status_code == 400
