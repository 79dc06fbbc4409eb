"""Which libraries a store gives back, and which it does not trust."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flambeau.optimizing.library_store import LibraryStore


def added(store: LibraryStore, name: str, content: bytes = b"code") -> Path:
    with store.workplace() as directory:
        library = directory / "model.so"
        library.write_bytes(content)
        return store.add(library, name)


def test_what_was_added_is_found_under_its_facts_only(tmp_path: Path) -> None:
    store = LibraryStore(tmp_path / "compiled")
    assert store.find("a") is None
    added(store, "a")
    found = LibraryStore(tmp_path / "compiled").find("a")
    assert found is not None
    assert found.read_bytes() == b"code"
    assert store.find("b") is None
    store.remove("a")
    assert store.find("a") is None
    assert list((tmp_path / "compiled").iterdir()) == []


def test_what_is_damaged_is_deleted(tmp_path: Path) -> None:
    store = LibraryStore(tmp_path / "compiled")
    path = added(store, "a")
    path.write_bytes(b"cod")
    assert store.find("a") is None
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_what_others_may_write_is_not_there(tmp_path: Path, mode: int) -> None:
    store = LibraryStore(tmp_path / "compiled")
    path = added(store, "a")
    path.chmod(mode)
    assert store.find("a") is None
    path.chmod(0o600)
    assert store.find("a") == path
    path.parent.chmod(0o700 | mode & 0o022)
    assert store.find("a") is None
    with pytest.raises(PermissionError, match="chmod 700"):
        added(store, "b")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    store = LibraryStore(tmp_path / "compiled")
    path = added(store, "a")
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    assert store.find("a") is None


def test_the_oldest_make_room(tmp_path: Path) -> None:
    store = LibraryStore(tmp_path / "compiled", max_bytes=10)
    for age, name in enumerate("abc"):
        path = added(store, name, b"12345")
        os.utime(path, (age, age))
    assert [name for name in "abc" if store.find(name)] == ["b", "c"]
    added(store, "d", b"more than all of it")
    assert [name for name in "abcd" if store.find(name)] == ["d"]
