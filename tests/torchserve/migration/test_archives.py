from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flambeau.archive import write_archive
from flambeau.manifest import Manifest
from flambeau.testing import make_archive
from flambeau.torchserve.migration.archives import check_archive
from flambeau.torchserve.migration.findings import Standing

GOOD = "def handle(data, context): return data"


def standings(path: Path) -> list[tuple[Standing, str]]:
    return [(finding.standing, finding.topic) for finding in check_archive(path)]


def test_an_archive_in_order_works(tmp_path: Path) -> None:
    path = make_archive(tmp_path, name="good", handler=GOOD)
    assert standings(path) == [(Standing.WORKS, "archive")]


def test_a_file_that_is_no_archive_is_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "no.mar"
    path.write_bytes(b"nothing")
    (finding,) = check_archive(path)
    assert finding.standing is Standing.UNSUPPORTED
    assert "not a zip file" in finding.reason


@pytest.mark.parametrize(
    ("source", "standing", "said"),
    [
        ("from ts.torch_handler.base_handler import BaseHandler", Standing.WORKS, ""),
        ("from ts.utils.util import PredictionException", Standing.WORKS, ""),
        ("from ts.model_loader import ModelLoader", Standing.UNSUPPORTED, "ts.model_loader"),
        ("from ts.context import NoSuchName", Standing.UNSUPPORTED, "ts.context.NoSuchName"),
        ("import ts.llm_launcher", Standing.UNSUPPORTED, "ts.llm_launcher"),
        ("import a_package_that_is_not_there", Standing.UNSUPPORTED, "not installed"),
        ("try:\n    import not_there\nexcept ImportError: pass", Standing.WORKS, ""),
        ("import torch\nw = torch.load('w.pt')", Standing.DIFFERS, "whatever weights_only says"),
        ("import torch\nw = torch.load('w.pt', weights_only=True)", Standing.WORKS, ""),
        ("def handle(:", Standing.UNSUPPORTED, "not Python"),
    ],
)
def test_a_handlers_source_is_read(
    tmp_path: Path, source: str, standing: Standing, said: str
) -> None:
    path = make_archive(tmp_path, name="m", handler=f"{source}\n{GOOD}\n")
    finding = check_archive(path)[0]
    assert finding.standing is standing
    assert said in finding.reason
    assert bool(finding.fix) == (standing is not Standing.WORKS) or said == "not Python"


def test_a_module_of_the_archive_is_no_missing_package(tmp_path: Path) -> None:
    path = make_archive(
        tmp_path, name="m", handler=f"import helper\n{GOOD}", files={"helper.py": b""}
    )
    assert standings(path) == [(Standing.WORKS, "archive")]


def weighty(tmp_path: Path, weights: Path, *, yaml: bytes = b"") -> Path:
    path = tmp_path / "weighty.mar"
    write_archive(
        path,
        manifest=Manifest(
            model_name="weighty",
            handler="base_handler",
            serialized_file=weights.name,
            config_file="model-config.yaml",
        ),
        files={weights.name: weights, "model-config.yaml": yaml},
    )
    return path


def test_a_state_dict_works(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    assert standings(weighty(tmp_path, tmp_path / "w.pth")) == [(Standing.WORKS, "archive")]


def test_a_pickled_module_needs_trust(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    (finding,) = check_archive(weighty(tmp_path, tmp_path / "w.pth"))
    assert finding.standing is Standing.UNSUPPORTED
    assert "torch.nn.modules.linear.Linear" in finding.reason
    assert "allow_pickle" in finding.fix


def test_trust_settles_it(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    path = weighty(tmp_path, tmp_path / "w.pth", yaml=b"handler: {allow_pickle: true}")
    assert standings(path) == [(Standing.WORKS, "archive")]


@pytest.mark.parametrize(
    ("yaml", "standing"),
    [
        ("batchSize: 4", Standing.WORKS),
        ("batchSize: 0", Standing.UNSUPPORTED),
        ("pippy: {chunks: 2}", Standing.UNSUPPORTED),
    ],
)
def test_the_yaml_is_checked(tmp_path: Path, yaml: str, standing: Standing) -> None:
    path = make_archive(tmp_path, name="m", handler=GOOD, model_yaml=yaml)
    assert check_archive(path)[0].standing is standing


def test_requirements_that_are_not_installed_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.mar"
    write_archive(
        path,
        manifest=Manifest(model_name="r", handler="h.py", requirements_file="requirements.txt"),
        files={"h.py": GOOD.encode(), "requirements.txt": b"numpy\nnot-there-at-all>=2\n"},
    )
    (finding,) = check_archive(path)
    assert finding.standing is Standing.DIFFERS
    assert "not_there_at_all" in finding.reason


def test_the_cpp_backend_is_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "c.mar"
    write_archive(
        path,
        manifest=Manifest(model_name="c", handler="h.py", runtime="LSP"),
        files={"h.py": GOOD.encode()},
    )
    assert (Standing.UNSUPPORTED, "runtime") in standings(path)
