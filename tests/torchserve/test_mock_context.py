"""`MockContext` as the tests of handlers use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flambeau.errors import ArchiveError
from flambeau.handler import BaseHandler
from flambeau.handler_metrics import MetricsCache
from flambeau.torchserve.mock_context import MockContext

MODEL = """
import torch

class Argmax(torch.nn.Module):
    def forward(self, rows):
        return torch.argmax(rows, dim=1)
"""

pytestmark = pytest.mark.usefixtures("imports_are_undone")


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    torch.save({}, tmp_path / "model.pt")
    return tmp_path


def test_a_handler_can_be_tried_with_it(model_dir: Path) -> None:
    context = MockContext(model_dir=str(model_dir))
    handler = BaseHandler()
    handler.initialize(context)
    rows: Any = [[1.0, 2.0], [4.0, 3.0]]
    assert handler.handle(rows, context) == [1, 0]
    assert isinstance(context.metrics, MetricsCache)
    assert "HandlerTime" in [sample.name for sample in context.metrics.take()]


def test_it_says_what_it_was_made_with(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("topk: 3\n")
    context = MockContext(
        model_pt_file=None,
        model_dir=tmp_path,
        model_file="net.py",
        gpu_id=None,
        model_name="mine",
        model_yaml_config_file="config.yaml",
    )
    assert context.manifest == {"model": {"modelName": "mine", "modelFile": "net.py"}}
    assert context.system_properties["gpu_id"] is None
    assert context.model_yaml_config == {"topk": 3}
    assert MockContext(gpu_id="1").system_properties["gpu_id"] == 1


def test_it_asks_for_an_explanation_when_told_to() -> None:
    context = MockContext()
    assert context.get_request_header(0, "explain") == "False"
    context.explain = True
    assert context.get_request_header(0, "explain") == "True"
    assert context.get_request_header(0, "other") is None


def test_a_yaml_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"gone\.yaml"):
        MockContext(model_dir=tmp_path, model_yaml_config_file="gone.yaml")
