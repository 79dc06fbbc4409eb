from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from flambeau.errors import ArchiveError
from flambeau.handler_metrics import MetricsCache
from flambeau.loading import EntryPoint, load_builtin, load_handler
from flambeau.manifest import MANIFEST_PATH
from flambeau.messages import LoadModel, MetricKind, MetricSpec
from flambeau.own_paths import builtin_dir

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION = """
calls = []

def handle(data, context):
    calls.append(data)
    return data

def other(data, context):
    return ["other"]
"""

CLASS = """
class Handler:
    def initialize(self, context):
        self.name = context.model_name

    def handle(self, data, context):
        return [self.name]
"""

pytestmark = pytest.mark.usefixtures("imports_are_undone")


def load(root: Path, handler: str | None, files: dict[str, str], **model: str) -> EntryPoint:
    """Load a handler from an archive of these files."""
    (root / "MAR-INF").mkdir(exist_ok=True)
    if handler is not None:
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
            device="cuda:1",
            max_batch_size=8,
            num_threads=1,
            max_response_bytes=1_000,
            server_version="0.1",
            limit_max_image_pixels=False,
            model_metrics=[MetricSpec("Calls", "count", MetricKind.COUNTER, ["ModelName"])],
            sequence_headers=("x-seq", "x-start", "x-end"),
        )
    )


def answer(entry_point: EntryPoint) -> object:
    return entry_point.call([{"body": "x"}], entry_point.context)


@pytest.mark.parametrize("handler", ["mine", "mine.py", "mine:handle", "mine.py:handle"])
def test_a_function_is_called_once_without_data_to_load(tmp_path: Path, handler: str) -> None:
    entry_point = load(tmp_path, handler, {"mine.py": FUNCTION})
    assert sys.modules["mine"].calls == [None]
    assert answer(entry_point) == [{"body": "x"}]
    assert entry_point.handler is None


def test_a_function_may_have_any_name(tmp_path: Path) -> None:
    assert answer(load(tmp_path, "mine:other", {"mine.py": FUNCTION})) == ["other"]


def test_a_class_is_made_and_initialised(tmp_path: Path) -> None:
    entry_point = load(tmp_path, "mine", {"mine.py": CLASS})
    assert answer(entry_point) == ["mine"]
    assert type(entry_point.handler).__name__ == "Handler"


def test_a_coroutine_function_loads_its_model_like_any_other(tmp_path: Path) -> None:
    entry_point = load(tmp_path, "mine", {"mine.py": FUNCTION.replace("def h", "async def h")})
    assert entry_point.is_async
    assert sys.modules["mine"].calls == [None]
    assert not load(tmp_path, "mine:other", {}).is_async


def test_imported_classes_do_not_count(tmp_path: Path) -> None:
    text = "from pathlib import Path\nfrom base import Base\n" + CLASS
    assert answer(load(tmp_path, "mine", {"mine.py": text, "base.py": "class Base: ..."}))


def test_a_module_may_hand_on_the_handler_of_another(tmp_path: Path) -> None:
    text = (
        "from base import *\n__all__ = ['Handler', 'Alias', 'limit']\nAlias, limit = Handler, 3\n"
    )
    assert answer(load(tmp_path, "mine", {"mine.py": text, "base.py": CLASS})) == ["mine"]


def test_classes_that_cannot_handle_do_not_count(tmp_path: Path) -> None:
    assert answer(load(tmp_path, "mine", {"mine.py": "class Helper: ...\n" + CLASS})) == ["mine"]


def test_a_class_can_be_named(tmp_path: Path) -> None:
    other = CLASS.replace("Handler", "Other").replace("self.name]", "'other']")
    assert answer(load(tmp_path, "mine:Other", {"mine.py": CLASS + other})) == ["other"]


def test_a_function_that_is_not_there_leaves_the_class_like_in_torchserve(tmp_path: Path) -> None:
    assert answer(load(tmp_path, "mine:serve", {"mine.py": CLASS})) == ["mine"]


def test_two_handler_classes_are_refused_by_name(tmp_path: Path) -> None:
    text = CLASS + CLASS.replace("Handler", "Other")
    with pytest.raises(
        ArchiveError, match=r"only one class .*Handler, Other; name one, as in mine:"
    ):
        load(tmp_path, "mine", {"mine.py": text})


def test_neighbours_of_the_handler_can_be_imported(tmp_path: Path) -> None:
    text = "import neighbour\n\ndef handle(data, context):\n    return [neighbour.VALUE]\n"
    assert answer(load(tmp_path, "mine", {"mine.py": text, "neighbour.py": "VALUE = 7"})) == [7]


def test_a_missing_dependency_is_reported_as_itself(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'dependency_nobody_has'"):
        load(tmp_path, "mine", {"mine.py": "import dependency_nobody_has\n"})


def test_a_module_with_the_name_of_a_loaded_one_does_not_replace_it(tmp_path: Path) -> None:
    assert answer(load(tmp_path, "json", {"json.py": CLASS})) == ["mine"]
    assert sys.modules["json"] is json


def test_an_archives_own_file_comes_before_a_built_in_handler(tmp_path: Path) -> None:
    assert answer(load(tmp_path, "base_handler", {"base_handler.py": CLASS})) == ["mine"]


def test_an_installed_module_is_the_last_place_to_look(tmp_path: Path) -> None:
    entry_point = load(tmp_path, "operator:is_", {})
    assert answer(entry_point) is False


def test_a_name_that_leads_nowhere_lists_the_built_in_ones(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"'image_clasifier' .*base_handler, image_classifier"):
        load(tmp_path, "image_clasifier", {})


def test_an_archive_without_a_handler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="names no handler"):
        load(tmp_path, None, {})


def test_the_context_tells_about_the_model(tmp_path: Path) -> None:
    files = {"mine.py": CLASS, "model-config.yaml": "batchSize: 4\nhandler: {size: 3}\n"}
    context = load(tmp_path, "mine", files, configFile="model-config.yaml").context
    assert context.model_name == "mine"
    assert context.manifest["model"]["handler"] == "mine"
    assert context.model_yaml_config == {"batchSize": 4, "handler": {"size": 3}}
    assert context.system_properties == {
        "model_dir": str(tmp_path),
        "gpu_id": 1,
        "batch_size": 8,
        "server_name": "MMS",
        "server_version": "0.1",
        "limit_max_image_pixels": False,
    }
    assert context.header_key_sequence_start == "x-start"
    assert isinstance(context.metrics, MetricsCache)
    context.metrics.get_metric("Calls").add_or_update(1, ["mine"])
    assert [sample.dimensions for sample in context.metrics.take()] == [[("ModelName", "mine")]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "model-config.yaml is not YAML"),
        ("- 1\n", "model-config.yaml is a list; write `key: value` lines"),
        ("!!python/object/apply:os.getcwd []", "model-config.yaml is not YAML"),
        (None, "'model-config.yaml', which is not in the archive"),
    ],
    ids=["syntax", "list", "code", "missing"],
)
def test_a_wrong_yaml_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    files = {"mine.py": CLASS} | ({} if text is None else {"model-config.yaml": text})
    with pytest.raises(ArchiveError, match=message):
        load(tmp_path, "mine", files, configFile="model-config.yaml")


def test_an_empty_yaml_says_nothing(tmp_path: Path) -> None:
    files = {"mine.py": CLASS, "model-config.yaml": ""}
    entry_point = load(tmp_path, "mine", files, configFile="model-config.yaml")
    assert entry_point.context.model_yaml_config == {}


@pytest.mark.parametrize("path", sorted(builtin_dir().glob("*.py")), ids=lambda path: path.stem)
def test_built_in_handlers_load_by_name(path: Path) -> None:
    assert load_builtin(path.stem).__name__ == path.stem
