"""Our archiver beside torch-model-archiver 0.12: the same flags, the same artefacts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flambeau.archive import read_manifest, unpack
from flambeau.cli import main as flambeau
from flambeau.torchserve.archive_files import ModelArchiverError
from flambeau.torchserve.archiver import ModelArchiverConfig, archive_model, main

REAL = str(Path(sys.executable).with_name("torch-model-archiver"))
MANIFEST = "MAR-INF/MANIFEST.json"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with everything a model can bring."""
    directory = tmp_path / "sources"
    (directory / "extra" / "vocab" / "deep").mkdir(parents=True)
    for unwanted in (".git", "__pycache__", "__MACOSX", "vocab/__pycache__"):
        (directory / "extra" / unwanted).mkdir()
        (directory / "extra" / unwanted / "x.txt").write_text("unwanted")
    for name, text in {
        "handler.py": "def handle(data, context): ...",
        "net.py": "class Net: ...",
        "weights.pt": "weights" * 100,
        "requirements.txt": "numpy",
        "config.yaml": "batchSize: 4",
        "one.txt": "one",
        "two.txt": "two",
        "extra/labels.json": "{}",
        "extra/.hidden": "hidden",
        "extra/vocab/words.txt": "words",
        "extra/vocab/deep/words.txt": "more words",
    }.items():
        (directory / name).write_text(text)
    (directory / "extra" / "linked.txt").symlink_to("../one.txt")
    monkeypatch.chdir(directory)
    return directory


def content(path: Path) -> dict[str, bytes]:
    """Every file of an artefact; tar files with their top directory."""
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member)) for member in tar if member.isfile()]
            return {name: file.read() for name, file in members if file is not None}
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def without_time(files: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files, and the manifest without what every run writes differently."""
    (name,) = [name for name in files if name.endswith(MANIFEST)]
    document = json.loads(files[name])
    assert len(document.pop("createdOn")) == len("31/12/2026 23:59:59")
    document.pop("archiverVersion")
    return {key: value for key, value in files.items() if key != name}, document


def run_both(flags: Sequence[str], tmp_path: Path) -> tuple[Path, Path]:
    """The real tool's artefact and ours, which have the same name."""
    found: list[Path] = []
    for name, tool in (("real", REAL), ("ours", None)):
        export = tmp_path / name
        export.mkdir(exist_ok=True)
        arguments = [*flags, "--export-path", str(export)]
        if tool is None:
            assert main(arguments) == 0
        else:
            # the real tool stages in a directory that all its runs share
            environment = {**os.environ, "TMPDIR": str(tmp_path)}
            subprocess.run([tool, *arguments], check=True, capture_output=True, env=environment)
        (artefact,) = export.iterdir()
        found.append(artefact)
    assert found[0].name == found[1].name
    return found[0], found[1]


MODEL = ["--model-name", "digits", "--version", "1.5"]
EVERYTHING = [
    *("--handler", "handler.py", "--serialized-file", "weights.pt", "--model-file", "net.py"),
    *("--extra-files", "extra,one.txt, two.txt", "-r", "requirements.txt", "-c", "config.yaml"),
]


@pytest.mark.slow
@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_all_flags_give_the_same_artefact_in_every_format(
    archive_format: str, sources: Path, tmp_path: Path
) -> None:
    flags = [*MODEL, *EVERYTHING, "--archive-format", archive_format, "--runtime", "python3"]
    real, ours = run_both([flag.replace(", two", ",two") for flag in flags], tmp_path)
    assert without_time(content(real)) == without_time(content(ours))
    if zipfile.is_zipfile(ours):
        method = zipfile.ZIP_STORED if archive_format == "zip-store" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(ours) as zipped:
            assert {entry.compress_type for entry in zipped.infolist()} == {method}
    manifest = unpack(ours, tmp_path / "unpacked")
    assert (manifest.model_name, manifest.model_version) == ("digits", "1.5")
    assert (tmp_path / "unpacked" / "vocab" / "deep" / "words.txt").read_text() == "more words"


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--handler", "image_classifier"],
        ["--handler", "trt_llm_handler", "--extra-files", "*.txt,extra/v*"],
        ["--handler", "handler"],
        ["--handler", "handler:entry"],
        ["--handler", "../sources/handler.py", "--serialized-file", "extra/../weights.pt"],
        ["--handler", "handler.py", "--extra-files", "none*,[to]*.txt"],
        ["--handler", "BaseHandler", "--runtime", "LSP"],
        ["--handler", "handler.py", "--extra-files", "handler.py"],
    ],
    ids=" ".join,
)
def test_the_same_files_are_found(flags: list[str], sources: Path, tmp_path: Path) -> None:
    real, ours = run_both([*MODEL, *flags], tmp_path)
    assert without_time(content(real)) == without_time(content(ours))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model-name", "a b"], "special characters"),
        (["--model-name", "../up"], "special characters"),
        (["--model-name", "-x"], "special characters"),
        (["--handler", "none.py"], "none.py"),
        (["--serialized-file", "none.pt"], "none.pt"),
        (["--model-file", "none_net.py"], "none_net.py"),
        (["--extra-files", "one.txt,none.txt"], "File does not exist: none.txt"),
        (["--requirements-file", "none.txt"], "none.txt"),
        (["--config-file", "none.yaml"], "none.yaml"),
        (["--export-path", "nowhere"], "is not a directory"),
        (["--export-path", "one.txt"], "is not a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_both_refuse_the_same(
    flags: list[str],
    says: str,
    sources: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = [
        "--model-name=m",
        "--version=1",
        "--handler=handler.py",
        "--export-path",
        str(tmp_path),
    ]
    arguments = [*given, *([f"{flags[0]}={flags[1]}"])]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    real = subprocess.run(
        [REAL, *arguments], check=False, capture_output=True, text=True, env=environment
    )
    assert real.returncode == 1
    assert says in real.stderr.replace("\n", " ")
    assert main(arguments) == 1
    assert says in caplog.text
    assert list(tmp_path.glob("m*")) in ([], [tmp_path / "m"])  # what the real one left


@pytest.mark.parametrize("archive_format", ["default", "tgz", "no-archive"])
def test_an_artefact_is_overwritten_on_demand_only(
    archive_format: str, sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--model-name", "m", "--handler", "handler.py", "--archive-format", archive_format]
    assert main([*flags, "--version", "1"]) == 0
    assert main([*flags, "--version", "2"]) == 1
    assert "already exists" in caplog.text
    assert "--force/-f" in caplog.text
    (artefact,) = [path for path in sources.iterdir() if path.name in {"m", "m.mar", "m.tar.gz"}]
    assert read_manifest(artefact).model_version == "1"
    assert main([*flags, "--version", "2", "-f"]) == 0
    assert read_manifest(artefact).model_version == "2"
    assert not list(sources.glob(".*.part"))


@pytest.mark.parametrize("missing", ["--model-name", "--version", "--handler"])
def test_a_missing_flag_is_a_mistake_in_the_command(
    missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"--model-name": "m", "--version": "1", "--handler": "h.py"}
    given = [f"{key}={value}" for key, value in flags.items() if key != missing]
    for command, arguments in ((main, given), (flambeau, ["archive", *given])):
        with pytest.raises(SystemExit) as caught:
            command(arguments)
        assert caught.value.code == 2
        assert f"the following arguments are required: {missing}" in capsys.readouterr().err


def test_our_own_command_takes_the_same_flags(
    sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flambeau(["archive", *MODEL, *EVERYTHING]) == 0
    assert flambeau(["archive", *MODEL, *EVERYTHING]) == 1
    capsys.readouterr()
    assert flambeau(["archive", "show", "digits.mar"]) == 0
    assert "net.py" in capsys.readouterr().out


# where the original goes wrong


def test_a_function_may_follow_a_whole_file_name(sources: Path) -> None:
    path = archive_model(ModelArchiverConfig("m", "handler.py:entry", "1"))
    assert read_manifest(path).handler == "handler.py:entry"
    assert "handler.py" in content(path)


def test_an_earlier_artefact_is_no_part_of_the_next(sources: Path) -> None:
    config = ModelArchiverConfig("m", "handler.py", "1", extra_files=".,*", force=True)
    before = content(archive_model(config))
    assert content(archive_model(config)).keys() == before.keys()
    assert "m.mar" not in before


def test_files_that_could_not_be_unpacked_are_not_packed(sources: Path) -> None:
    (sources / "extra" / "LABELS.json").write_text("{}")
    with pytest.raises(ModelArchiverError, match="case is ignored"):
        archive_model(ModelArchiverConfig("m", "handler.py", "1", extra_files="extra"))
    assert not list(sources.glob("*m.mar*"))


def test_a_manifest_among_the_extra_files_is_replaced(sources: Path) -> None:
    (sources / "extra" / "MAR-INF").mkdir()
    (sources / "extra" / MANIFEST).write_text("{}")
    path = archive_model(ModelArchiverConfig("m", "handler.py", "1", extra_files="extra"))
    assert read_manifest(path).model_name == "m"


def test_links_that_go_round_in_circles_are_told(sources: Path) -> None:
    (sources / "extra" / "round").symlink_to("..")
    with pytest.raises(ModelArchiverError, match="link to a directory it is in"):
        archive_model(ModelArchiverConfig("m", "handler.py", "1", extra_files=f"{sources}"))


def test_the_later_of_two_files_of_a_name_wins(
    sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (sources / "extra" / "one.txt").write_text("other")
    config = ModelArchiverConfig("m", "handler.py", "1", extra_files="one.txt,extra")
    assert content(archive_model(config))["one.txt"] == b"other"
    assert "replaces one.txt" in caplog.text
