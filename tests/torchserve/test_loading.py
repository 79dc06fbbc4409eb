"""Handlers of archives made for TorchServe: found, put into envelopes and into micro-batches."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flambeau
from flambeau.errors import ArchiveError, HandlerFailed
from flambeau.loading import EntryPoint
from flambeau.manifest import MANIFEST_PATH
from flambeau.messages import InferenceRequest, Input, LoadModel
from flambeau.torchserve.loading import load_handler
from flambeau.torchserve.micro_batching import MicroBatching
from flambeau.torchserve.names_path import NAMES_DIR

FUNCTION = """
from ts.context import Context
from ts.utils.util import PredictionException

def handle(data, context: Context):
    if data is None:
        return None
    if data == ["bad"]:
        raise PredictionException("not this one", 599)
    return [context.model_name for _ in data]
"""

SUBCLASS = """
from ts.torch_handler.base_handler import BaseHandler

class Mine(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        self.num_rows = [*getattr(self, "num_rows", []), len(data)]
        return [row["body"] for row in data]

    def inference(self, data):
        return data

    def postprocess(self, data):
        return [value * 2 for value in data]
"""

ASYNC = """
class Mine:
    async def initialize(self, context):
        self.ready = True

    async def handle(self, data, context):
        return [self.ready for _ in data]
"""

MODEL = """
import torch

class Double(torch.nn.Module):
    def forward(self, rows):
        return rows * 2
"""

pytestmark = pytest.mark.usefixtures("imports_are_undone")


def load(
    root: Path,
    handler: str,
    files: dict[str, str],
    *,
    service_envelope: str | None = None,
    **model: str,
) -> EntryPoint:
    """Load a handler from an archive of these files."""
    (root / "MAR-INF").mkdir()
    model["handler"] = handler
    (root / MANIFEST_PATH).write_text(json.dumps({"runtime": "python", "model": model}))
    for name, text in files.items():
        (root / name).write_text(text)
    return load_handler(
        LoadModel(
            model_name="mine",
            model_version="2",
            model_dir=str(root),
            handler=None,
            device="cpu",
            max_batch_size=8,
            num_threads=1,
            max_response_bytes=1_000,
            server_version="0.1",
            service_envelope=service_envelope,
        )
    )


def answer(entry_point: EntryPoint, *bodies: object) -> Any:  # noqa: ANN401  # the handler's
    """What it answers to a batch of requests with these decoded bodies."""
    inputs = [Input("body", "application/json", memoryview(b""))]
    entry_point.context.begin_batch(
        [InferenceRequest(str(idx), [], inputs) for idx, _ in enumerate(bodies)]
    )
    return entry_point.call([{"body": body} for body in bodies], entry_point.context)


def test_a_function_may_import_ts(tmp_path: Path) -> None:
    assert answer(load(tmp_path, "mine.py", {"mine.py": FUNCTION}), 1, 2) == ["mine", "mine"]


def test_a_prediction_exception_leaves_the_handler_with_its_status(tmp_path: Path) -> None:
    entry_point = load(tmp_path, "mine.py", {"mine.py": FUNCTION})
    with pytest.raises(HandlerFailed, match=r"^not this one$") as caught:
        entry_point.call(["bad"], entry_point.context)  # type: ignore[list-item]  # for brevity
    assert caught.value.status == 599


def test_a_subclass_of_base_handler_may_import_it_from_ts(tmp_path: Path) -> None:
    entry_point = load(tmp_path, "mine", {"mine.py": SUBCLASS})
    assert answer(entry_point, 1, 2) == [2, 4]


def test_the_archive_comes_first_and_the_names_second(tmp_path: Path) -> None:
    load(tmp_path, "mine", {"mine.py": FUNCTION})
    assert sys.path[:2] == [str(tmp_path), str(NAMES_DIR)]


def test_a_file_of_the_archive_does_not_take_the_place_of_ts(tmp_path: Path) -> None:
    files = {"mine.py": SUBCLASS, "ts.py": "raise RuntimeError('the wrong one')\n"}
    assert answer(load(tmp_path, "mine", files), 3) == [6]


@pytest.mark.parametrize("handler", ["base_handler", "ts.torch_handler.base_handler"])
def test_a_built_in_handler_has_two_names(tmp_path: Path, handler: str) -> None:
    entry_point = load(tmp_path, handler, {"model.py": MODEL}, modelFile="model.py")
    assert type(entry_point.handler).__module__ == "base_handler"


@pytest.mark.parametrize("handler", ["densenet_handler", "ts.torch_handler.densenet_handler.py"])
def test_a_handler_that_only_ts_has_is_found_there(tmp_path: Path, handler: str) -> None:
    entry_point = load(tmp_path, handler, {"model.py": MODEL}, modelFile="model.py")
    assert type(entry_point.handler).__name__ == "DenseNetHandler"


def test_a_file_of_the_archive_comes_before_a_handler_of_ts(tmp_path: Path) -> None:
    files = {"densenet_handler.py": SUBCLASS}
    assert answer(load(tmp_path, "densenet_handler", files), 3) == [6]


def test_a_name_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="handler 'nobody' is neither a file of the archive"):
        load(tmp_path, "nobody", {})


@pytest.mark.parametrize(
    ("envelope", "body", "expected"),
    [
        ("kserve", {"instances": [[1.0, 2.0], [3.0]]}, {"predictions": [[2.0, 4.0], [6.0]]}),
        ("kserve", {"instances": [{"data": [1.0]}]}, {"predictions": [[2.0]]}),
        ("json", {"instances": [[1.0]]}, '{"predictions": [[2.0]]}'),
        ("body", [1.0], [2.0]),
    ],
)
def test_built_in_handlers_take_what_envelopes_hand_over(
    tmp_path: Path, envelope: str, body: object, expected: object
) -> None:
    files = {"model.py": MODEL}
    entry_point = load(
        tmp_path, "base_handler", files, service_envelope=envelope, modelFile="model.py"
    )
    assert answer(entry_point, body) == [expected]


def test_a_missing_dependency_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'nobody_has_this'"):
        load(tmp_path, "mine", {"mine.py": "import nobody_has_this\n"})


def test_a_missing_module_of_ts_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'ts\.nobody'"):
        load(tmp_path, "mine", {"mine.py": "import ts.nobody\n"})


@pytest.mark.parametrize(
    "model", [{"service_envelope": "kserve"}, {"envelope": "kserve"}], ids=["setting", "manifest"]
)
def test_an_envelope_goes_around_the_handler(tmp_path: Path, model: dict[str, str]) -> None:
    files = {"mine.py": SUBCLASS.replace('row["body"]', "row")}
    entry_point = load(tmp_path, "mine", files, **model)
    asked = [{"instances": [1, 2]}, {"instances": [3]}]
    assert answer(entry_point, *asked) == [{"predictions": [2, 4]}, {"predictions": [6]}]


def test_the_setting_wins_over_the_manifests_envelope(tmp_path: Path) -> None:
    files = {"mine.py": SUBCLASS.replace('row["body"]', "row")}
    entry_point = load(tmp_path, "mine", files, service_envelope="body", envelope="kserve")
    assert answer(entry_point, 1, 2) == [2, 4]


def test_an_envelope_that_is_not_there_stops_the_load(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="service envelope is 'soap'"):
        load(tmp_path, "mine", {"mine.py": FUNCTION}, service_envelope="soap")


def test_a_coroutine_is_known_as_one(tmp_path: Path) -> None:
    entry_point = load(tmp_path, "mine", {"mine.py": ASYNC})
    assert entry_point.is_async
    assert asyncio.run(answer(entry_point, 1, 2)) == [True, True]


def test_a_coroutine_in_an_envelope_is_one(tmp_path: Path) -> None:
    entry_point = load(tmp_path, "mine", {"mine.py": ASYNC}, service_envelope="kserve")
    assert entry_point.is_async
    assert asyncio.run(answer(entry_point, {"instances": [1]})) == [{"predictions": [True]}]


def test_other_handlers_are_no_coroutines(tmp_path: Path) -> None:
    assert not load(tmp_path, "mine", {"mine.py": SUBCLASS}).is_async


@pytest.fixture
def batched(tmp_path: Path) -> Iterator[EntryPoint]:
    yaml = "micro_batching: {micro_batch_size: 2, parallelism: {inference: 2}}\n"
    files = {"mine.py": SUBCLASS, "config.yaml": yaml}
    entry_point = load(tmp_path, "mine", files, configFile="config.yaml")
    yield entry_point
    assert isinstance(entry_point.call, MicroBatching)
    entry_point.call.shutdown()


def test_the_yaml_splits_batches(batched: EntryPoint) -> None:
    assert answer(batched, 1, 2, 3) == [2, 4, 6]
    assert vars(batched.handler)["num_rows"] == [2, 1]
    assert isinstance(batched.call, MicroBatching)
    assert batched.call.parallelism["inference"] == 2


def test_a_handler_with_a_handle_of_its_own_splits_batches_itself(tmp_path: Path) -> None:
    own = "\n    def handle(self, data, context):\n        return [len(data)] * len(data)\n"
    files = {"mine.py": SUBCLASS + own, "config.yaml": "micro_batching: {micro_batch_size: 1}\n"}
    entry_point = load(tmp_path, "mine", files, configFile="config.yaml")
    assert answer(entry_point, 1, 2) == [2, 2]


def test_a_built_in_handler_groups_its_samples_itself(tmp_path: Path) -> None:
    files = {"model.py": MODEL, "config.yaml": "micro_batching: {micro_batch_size: 1}\n"}
    named = {"modelFile": "model.py", "configFile": "config.yaml"}
    entry_point = load(tmp_path, "base_handler", files, **named)
    assert answer(entry_point, [1.0], [2.0], [[3.0]]) == [[2.0], [4.0], [[6.0]]]


def test_a_wrong_micro_batching_is_refused(tmp_path: Path) -> None:
    files = {"mine.py": SUBCLASS, "config.yaml": "micro_batching: 4\n"}
    with pytest.raises(ArchiveError, match="micro_batching is 4; give `micro_batch_size: 4`"):
        load(tmp_path, "mine", files, configFile="config.yaml")


def test_the_error_of_an_installed_torchserve_is_understood(tmp_path: Path) -> None:
    """In a process of its own, with a package that stands in for the real one."""
    package = tmp_path / "site" / "ts" / "utils"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "util.py").write_text(
        "class PredictionException(Exception):\n"
        "    def __init__(self, message, error_code=500):\n"
        "        self.message, self.error_code = message, error_code\n"
    )
    model_dir = tmp_path / "model"
    (model_dir / "MAR-INF").mkdir(parents=True)
    (model_dir / MANIFEST_PATH).write_text('{"model": {"handler": "mine"}}')
    (model_dir / "mine.py").write_text(
        FUNCTION.replace("from ts.context import Context", "").replace(": Context", "")
    )
    program = f"""
from flambeau.messages import LoadModel
from flambeau.torchserve.loading import load_handler

entry_point = load_handler(
    LoadModel("mine", "1", {str(model_dir)!r}, None, "cpu", 1, 1, 1000, "0.1")
)
try:
    entry_point.call(["bad"], entry_point.context)
except Exception as error:
    print(type(error).__name__, error, error.status)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PYTHONPATH": f"{Path(flambeau.__file__).parents[1]}:{tmp_path / 'site'}",
            "FLAMBEAU_USE_TORCHSERVE_PACKAGE": "true",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "HandlerFailed not this one 599\n"
