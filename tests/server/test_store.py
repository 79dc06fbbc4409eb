from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flambeau.archive import digest, read_manifest, write_archive
from flambeau.errors import ArchiveError, ModelNotFound
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.store import ModelStore
from flambeau.unpack_limits import UnpackLimits


def make_archive(path: Path, *, weights: bytes = b"weights") -> Path:
    manifest = Manifest(model_name=path.stem, serialized_file="model.pt")
    write_archive(path, manifest=manifest, files={"model.pt": weights}, overwrite=True)
    return path


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    directory = tmp_path / "store"
    directory.mkdir()
    make_archive(directory / "digits.mar")
    (directory / "plain").mkdir()
    (directory / "README.md").write_text("not an archive")
    (directory / ".hidden.mar").write_bytes(b"")
    (directory / ".git").mkdir()
    make_archive(tmp_path / "outside.mar")
    (directory / "link.mar").symlink_to(tmp_path / "outside.mar")
    (directory / "sub").mkdir()
    make_archive(directory / "sub" / "inner.mar")
    return ModelStore(directory)


def test_archives_and_visible_directories_are_listed(store: ModelStore) -> None:
    assert store.names() == ["digits.mar", "plain", "sub"]


def test_every_kind_of_archive_is_listed(store: ModelStore) -> None:
    for name in ("digits.tar.gz", "old.model", "digits.tgz", "notes.txt"):
        (store.directory / name).write_bytes(b"\x1f\x8b" if name.endswith("gz") else b"")
    assert store.names() == ["digits.mar", "digits.tar.gz", "old.model", "plain", "sub"]
    assert store.find("digits.tgz") == store.directory / "digits.tgz"  # TorchServe takes any file
    with pytest.raises(ModelNotFound):
        store.find("notes.txt")


def test_a_link_within_the_store_is_an_archive(store: ModelStore) -> None:
    """A volume of Kubernetes: names lead to `..data`, which leads to what is current."""
    current = store.directory / "..2024_05_06"
    current.mkdir()
    make_archive(current / "mounted.mar")
    (store.directory / "..data").symlink_to("..2024_05_06")
    (store.directory / "mounted.mar").symlink_to("..data/mounted.mar")
    (store.directory / "itself").symlink_to(".")
    (store.directory / "nowhere.mar").symlink_to("missing.mar")
    assert store.names() == ["digits.mar", "mounted.mar", "plain", "sub"]
    with store:
        unpacked = store.unpack(store.find("mounted.mar"))
        assert unpacked.manifest.model_name == "mounted"


def test_a_store_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "none")
    assert store.names() == []
    with pytest.raises(ModelNotFound, match=r"^Model not found at: digits\.mar$"):
        store.find("digits.mar")


def test_a_plain_name_is_found(store: ModelStore) -> None:
    assert store.find("digits.mar") == store.directory / "digits.mar"
    assert store.find("plain") == store.directory / "plain"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty url"),
        ("../outside.mar", "Relative path is not allowed in url: ../outside.mar"),
        ("..", "Relative path is not allowed in url: .."),
        ("http://a/../b.mar", "Relative path is not allowed in url: http://a/../b.mar"),
        ("http://h/m.mar", "Given URL http://h/m.mar does not match any allowed URL(s)"),
        ("HTTPS://h/m.mar", "Given URL HTTPS://h/m.mar does not match any allowed URL(s)"),
        ("file:///m.mar", "Given URL file:///m.mar does not match any allowed URL(s)"),
        ("s3://b/m.mar", "Given URL s3://b/m.mar does not match any allowed URL(s)"),
        ("none.mar", "Model not found at: none.mar"),
    ],
)
def test_refusals_have_the_texts_of_torchserve(store: ModelStore, url: str, message: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        store.find(url)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "./digits.mar",
        "sub/inner.mar",
        "plain/",
        "digits.mar/",
        "//digits.mar",
        ".",
        ".hidden.mar",
        ".git",
        "README.md",
        "link.mar",
        "DIGITS.MAR",
        "digits.mar\0",
        "digits.mar\0.png",
        "digits.mar\n",
        " digits.mar",
        "digits%2emar",
        "%2e%2e%2foutside.mar",
        "\uff0e\uff0e/outside.mar",
        "\u2025/outside.mar",
        "..\\outside.mar".replace("..", ".\u200b."),
        "\\\\host\\share\\m.mar",
        "C:\\m.mar",
        "~/m.mar",
        "$HOME/m.mar",
        "digits.mar?x=1",
        "digits.mar#x",
        "*",
        "d" * 300,
        "d" * 100_000,
        "\udcff.mar",
    ],
)
def test_whatever_is_not_a_listed_name_is_not_found(store: ModelStore, url: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        store.find(url)
    assert str(caught.value) == f"Model not found at: {url}"


def test_a_path_to_an_entry_of_the_store_is_found(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(store.directory)
    for parent in (str(store.directory), "store", "./store", "link", f"{tmp_path}//link"):
        assert store.find(f"{parent}/digits.mar") == store.directory / "digits.mar"
        for name in (".hidden.mar", "link.mar", "none.mar", "sub/inner.mar", "", "\0"):
            with pytest.raises(ModelNotFound, match="Model not found at"):
                store.find(f"{parent}/{name}")
    with pytest.raises(ModelNotFound, match="Model not found at"):
        store.find(f"{tmp_path}/digits.mar")  # TorchServe would take the store's


def test_an_added_archive_is_found(store: ModelStore, tmp_path: Path) -> None:
    source = make_archive(tmp_path / "new.mar", weights=b"new")
    assert store.add(source) == store.find("new.mar")
    for name in ("other.mar", "other.tar.gz", "other.model"):
        assert store.add(source, name=name) == store.find(name)
    assert digest(store.find("other.mar")) == digest(source)
    assert [p.name for p in store.directory.iterdir() if p.name.endswith(".part")] == []


def test_adding_creates_the_store(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "a" / "b")
    store.add(make_archive(tmp_path / "new.mar"))
    assert store.names() == ["new.mar"]


def test_adding_the_same_content_again_changes_nothing(store: ModelStore, tmp_path: Path) -> None:
    source = make_archive(tmp_path / "digits.mar")
    before = store.find("digits.mar").stat()
    assert store.add(source) == store.find("digits.mar")
    assert store.add(store.find("digits.mar"), overwrite=True) == store.find("digits.mar")
    after = store.find("digits.mar").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_content_under_a_taken_name_is_refused(store: ModelStore, tmp_path: Path) -> None:
    source = make_archive(tmp_path / "digits.mar", weights=b"other")
    before = digest(store.find("digits.mar"))
    with pytest.raises(ArchiveError) as caught:
        store.add(source)
    assert str(source) in str(caught.value)
    assert str(store.directory / "digits.mar") in str(caught.value)
    assert digest(store.find("digits.mar")) == before
    store.add(source, overwrite=True)
    assert digest(store.find("digits.mar")) == digest(source)


@pytest.mark.parametrize("name", ["", "../x.mar", "a/b.mar", ".x.mar", "x.zip", "/x.mar"])
def test_names_the_store_would_not_list_are_not_added(
    store: ModelStore, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ArchiveError, match="is no name for an archive"):
        store.add(make_archive(tmp_path / "new.mar"), name=name)


def test_adding_what_is_not_there_says_so(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"none\.mar cannot be"):
        store.add(tmp_path / "none.mar")
    assert store.names() == ["digits.mar", "plain", "sub"]


def test_each_unpacking_has_its_own_directory_until_the_store_closes(
    store: ModelStore, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with ModelStore(store.directory, scratch=scratch) as opened:
        archive = opened.find("digits.mar")
        unpacked = opened.unpack(archive)
        first, second = unpacked.directory, opened.unpack(archive).directory
        assert (unpacked.digest, unpacked.manifest) == (digest(archive), read_manifest(archive))
        assert first != second
        assert first.name.startswith(digest(archive)[:16])
        assert (first / "model.pt").read_bytes() == b"weights"
        assert (second / MANIFEST_PATH).is_file()
        assert first.is_relative_to(scratch)
    assert list(scratch.iterdir()) == []


def test_archives_unpacked_at_the_same_time_share_one_scratch_directory(
    store: ModelStore, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with ModelStore(store.directory, scratch=scratch) as opened:
        with ThreadPoolExecutor(8) as pool:
            unpacked = list(pool.map(opened.unpack, [opened.find("digits.mar")] * 8))
        assert len({each.directory for each in unpacked}) == 8
        assert len(list(scratch.iterdir())) == 1
    assert list(scratch.iterdir()) == []


def test_a_refused_archive_leaves_no_directory_behind(store: ModelStore, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    limits = UnpackLimits(max_total_bytes=1)
    with ModelStore(store.directory, scratch=scratch, limits=limits) as opened:
        with pytest.raises(ArchiveError, match="at most 1 are unpacked"):
            opened.unpack(opened.find("digits.mar"))
        (store.directory / "plain" / "passwd").symlink_to("/etc/passwd")
        with pytest.raises(ArchiveError, match="is a link"):
            opened.unpack(opened.find("plain"))
        assert [path for path in scratch.rglob("*") if path.parent != scratch] == []


def test_a_link_is_not_unpacked(store: ModelStore) -> None:
    with store, pytest.raises(ArchiveError, match=r"link\.mar is a link"):
        store.unpack(store.directory / "link.mar")
