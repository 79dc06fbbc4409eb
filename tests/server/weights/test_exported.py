from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from flambeau.context import Context
from flambeau.errors import ArchiveError
from flambeau.handler import BaseHandler


class Weighted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values @ self.weights


def load(root: Path, name: str, *, yaml: dict[str, object] | None = None) -> BaseHandler:
    handler = BaseHandler()
    manifest = {"model": {"serializedFile": name}}
    handler.initialize(Context("mine", str(root), manifest, 4, None, "0.1", model_yaml_config=yaml))
    return handler


def program() -> torch.export.ExportedProgram:
    """The model for any batch size."""
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(Weighted().eval(), (torch.ones(2, 2),), dynamic_shapes=({0: batch},))


def test_a_program_is_loaded_and_run(tmp_path: Path) -> None:
    torch.export.save(program(), tmp_path / "model.pt2")
    handler = load(tmp_path, "model.pt2")
    for batch_size in (1, 5):
        outputs = handler.inference(torch.ones(batch_size, 2))
        assert outputs.tolist() == [[1.0, 2.0]] * batch_size
    assert not outputs.requires_grad


def test_a_program_can_be_compiled(tmp_path: Path) -> None:
    torch.export.save(program(), tmp_path / "model.pt2")
    yaml: dict[str, object] = {"pt2": {"compile": {"enable": True, "backend": "eager"}}}
    handler = load(tmp_path, "model.pt2", yaml=yaml)
    assert handler.inference(torch.ones(3, 2)).tolist() == [[1.0, 2.0]] * 3


@pytest.mark.parametrize("content", ["text", "zip", "weights"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.pt2"
    if content == "text":
        path.write_bytes(b"hello")
    elif content == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("hello.txt", "hello")
    else:
        torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(ArchiveError, match=r"model\.pt2 cannot be loaded by PyTorch .* again"):
        load(tmp_path, "model.pt2")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("is_worker", [True, False])
def test_a_pickle_in_a_program_is_not_read_where_workers_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_worker: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    """PyTorch itself reads it, once it has found that it is no tensor."""
    path, marker, pickled = tmp_path / "model.pt2", tmp_path / "marker", io.BytesIO()
    torch.save(Payload(marker), pickled)
    torch.export.save(program(), path)
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    examples = [name for name in entries if "sample_inputs" in name]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, pickled.getvalue() if name in examples else content)
    if is_worker:
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with contextlib.suppress(ArchiveError):  # of examples that are none
        load(tmp_path, "model.pt2")
    assert marker.exists() is not is_worker


def test_a_library_needs_its_setting(tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"hello")
    with pytest.raises(ArchiveError, match=r"export: {aot_compile: true}"):
        load(tmp_path, "model.so")
    with pytest.raises(ArchiveError, match=r"model\.so cannot be loaded by PyTorch"):
        load(tmp_path, "model.so", yaml={"pt2": {"export": {"aot_compile": True}}})


@pytest.mark.slow  # a C++ compiler runs
@pytest.mark.timeout(400)
def test_what_aotinductor_compiles_is_loaded_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    quick: dict[str, Any] = {
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "aot_inductor.precompile_headers": False,
        "cpp.vec_isa_ok": True,
    }
    package = tmp_path / "model.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, which is not what is tested
        torch._inductor.aoti_compile_and_package(
            program(), package_path=str(package), inductor_configs=quick
        )
    with zipfile.ZipFile(package) as file:  # the form before packages: just the library
        (name,) = [name for name in file.namelist() if name.endswith(".so")]
        (tmp_path / "model.so").write_bytes(file.read(name))
    yaml: dict[str, object] = {"pt2": {"export": {"aot_compile": True}}}
    for handler in (load(tmp_path, "model.pt2"), load(tmp_path, "model.so", yaml=yaml)):
        for batch_size in (1, 5):
            outputs = handler.inference(torch.ones(batch_size, 2))
            assert outputs.tolist() == [[1.0, 2.0]] * batch_size
