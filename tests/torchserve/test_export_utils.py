"""torch-model-archiver's Python names, as a script imports them with our `names` on its path."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import flambeau
from flambeau.archive import read_manifest

NAMES = Path(flambeau.__file__).parent / "torchserve" / "names"
SCRIPT = """
import argparse, json, sys, tarfile, zipfile
from pathlib import Path
import model_archiver
from model_archiver import ModelArchiver, ModelArchiverConfig
from model_archiver.arg_parser import ArgParser
from model_archiver.manifest_components.manifest import Manifest, RuntimeType
from model_archiver.manifest_components.model import Model
from model_archiver.model_archiver import ModelArchiver as Again
from model_archiver.model_archiver_config import ModelArchiverConfig as Config
from model_archiver.model_archiver_error import ModelArchiverError
from model_archiver.model_packaging import generate_model_archive, package_model
from model_archiver.model_packaging_utils import ModelExportUtils as utils

assert "torchserve/names" in model_archiver.__file__
assert model_archiver.__version__ == "0.12.0"
assert Again is ModelArchiver and Config is ModelArchiverConfig
Path("handler.py").write_text("x = 1")
Path("w.pt").write_text("w")
config = ModelArchiverConfig(
    model_name="m", handler="handler.py", version="1.0", serialized_file="w.pt",
    model_file=None, extra_files=None, runtime=RuntimeType.PYTHON.value,
    export_path=".", archive_format="default", force=False, requirements_file=None,
    config_file=None,
)
ModelArchiver.generate_model_archive(config)
assert Path("m.mar").is_file()
try:
    generate_model_archive(config)
except ModelArchiverError as error:
    assert "already exists" in str(error)
else:
    raise AssertionError
config.force = True
package_model(config, manifest='{"model": {"modelName": "mine"}}')
config.model_name = "tool"
text = utils.generate_manifest_json(config)
assert json.loads(text)["model"] == utils.generate_model(config).model_dict == {
    "modelName": "tool", "serializedFile": "w.pt", "handler": "handler.py", "modelVersion": "1.0"}
assert str(Manifest("python", Model("m", "a/w.pt", "b/h.py"))).startswith('{\\n  "createdOn"')
staged = utils.copy_artifacts("tool", "python", handler="handler", serialized_file="w.pt",
                              extra_files=None, config_file=None)
assert sorted(p.name for p in Path(staged).iterdir()) == ["handler.py", "w.pt"]
assert Path(staged).name == "tool"
for kind in ("default", "tgz", "no-archive"):
    assert utils.check_mar_already_exists("tool", None, False, kind) == str(Path.cwd())
    utils.archive(".", "tool", staged, text, kind)
    try:
        utils.check_mar_already_exists("tool", None, False, kind)
    except ModelArchiverError:
        assert utils.check_mar_already_exists("tool", ".", True, kind) == "."
    else:
        raise AssertionError(kind)
with zipfile.ZipFile("dir.zip", "w") as zipped:
    utils.archive_dir(staged, zipped, "default", "tool")
with tarfile.open("dir.tar", "w") as tar:
    utils.archive_dir(staged, tar, "tgz", "tool")
    assert tar.getnames() == ["tool/handler.py", "tool/w.pt"]
utils.archive_dir(staged, "copied", "no-archive", "tool")
assert Path("copied/w.pt").is_file()
utils.clean_temp_files(["dir.zip", "dir.tar"])
utils.make_dir("a/b")
assert utils.find_unique(["a.pt", "b.py"], ".pt") == "a.pt"
assert utils.find_unique(["b.py"], ".pt") is None
assert not utils.directory_filter(".git", set()) and utils.directory_filter("src", {"x"})
assert not utils.file_filter("a.pyc", set()) and utils.file_filter("a.py", {"b"})
for wrong in (lambda: utils.find_unique(["a.pt", "b.pt"], ".pt"),
              lambda: utils.check_model_name_regex_or_exit("a b"),
              lambda: utils.validate_inputs("m", "nowhere")):
    try:
        wrong()
    except ModelArchiverError:
        pass
    else:
        raise AssertionError
utils.validate_inputs("m", "a/b")
sys.argv = ["torch-model-archiver", "--model-name", "cli", "-v", "3", "--handler", "handler.py"]
generate_model_archive()
assert ArgParser.export_model_args_parser().version == "3"
"""


@pytest.mark.slow
def test_scripts_find_every_name_and_what_it_does(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(NAMES)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "m.mar").model_name == "mine"
    assert read_manifest(tmp_path / "cli.mar").model_version == "3"
    for name in ("tool.mar", "tool.tar.gz", "tool"):
        assert read_manifest(tmp_path / name).model_name == "tool"
    with zipfile.ZipFile(tmp_path / "m.mar") as zipped:
        assert sorted(zipped.namelist()) == ["MAR-INF/MANIFEST.json", "handler.py", "w.pt"]
