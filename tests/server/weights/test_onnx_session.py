from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from flambeau.context import Context
from flambeau.errors import ArchiveError
from flambeau.handler import BaseHandler

if TYPE_CHECKING:
    from pathlib import Path


def write_model(path: Path, *, num_outputs: int = 1) -> None:
    """`a - b` of any length, and a second time if asked."""
    names = [f"out{i}" for i in range(num_outputs)]
    graph = helper.make_graph(
        [helper.make_node("Sub", ["a", "b"], [name]) for name in names],
        "difference",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "ab"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def load(root: Path) -> BaseHandler:
    handler = BaseHandler()
    manifest = {"model": {"serializedFile": "model.onnx"}}
    handler.initialize(Context("mine", str(root), manifest, 4, None, "0.1"))
    return handler


def test_a_model_takes_and_gives_tensors(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    handler = load(tmp_path)
    a, b = torch.arange(6.0).reshape(3, 2), torch.ones(3, 2)
    assert torch.equal(handler.inference(a, b), a - b)
    assert torch.equal(handler.inference(a, b=b), a - b)


def test_several_outputs_come_in_order(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx", num_outputs=2)
    outputs = load(tmp_path).inference(torch.ones(1, 2), torch.ones(1, 2))
    assert [output.tolist() for output in outputs] == [[[0.0, 0.0]], [[0.0, 0.0]]]


def test_a_handler_may_talk_to_the_session_itself(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    model = load(tmp_path).model
    names = [item.name for item in model.get_inputs()]
    a = torch.ones(1, 2).numpy()
    assert model.run(None, dict.fromkeys(names, a))[0].tolist() == [[0.0, 0.0]]


def test_it_computes_with_the_threads_of_its_worker(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    threads = load(tmp_path).model.get_session_options().intra_op_num_threads
    assert threads == torch.get_num_threads()


def test_more_inputs_than_the_model_takes_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="the model takes a, b; 3 inputs were given"):
        load(tmp_path).inference(*[torch.ones(1, 2)] * 3)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"hello")
    with pytest.raises(ArchiveError, match=r"model\.onnx is not an ONNX model, or is damaged"):
        load(tmp_path)


def test_without_onnxruntime_the_way_to_get_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    with pytest.raises(ArchiveError, match=r"No model weights .*pip install 'flambeau\[onnx\]'"):
        load(tmp_path)
