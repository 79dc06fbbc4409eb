"""From urls to packages, with archives on disk."""

from __future__ import annotations

import asyncio
import logging
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from flambeau.archive import digest, read_manifest, write_archive
from flambeau.archive_keys import SigningKey, make_key
from flambeau.archive_signing import sign_archive
from flambeau.config import SignaturePolicy
from flambeau.downloads import Downloads
from flambeau.errors import (
    ArchiveError,
    ArchiveExists,
    DownloadFailed,
    ModelNotFound,
    RequirementsFailed,
)
from flambeau.manifest import Manifest
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Package
from flambeau.packages import PackageLoader
from flambeau.signing import Trust
from flambeau.store import ModelStore

HANDLER: dict[str, Path | bytes] = {"handler.py": b"def handle(data, context): return data"}
MANIFEST = Manifest(model_name="digits", model_version="2", handler="handler.py")


class World:
    """A store, a place outside it, and a loader that may fetch from there."""

    def __init__(self, root: Path, *, default_handler: str | None = None) -> None:
        self.store_dir, self.outside = root / "store", root / "outside"
        self.scratch = root / "scratch"
        for directory in (self.store_dir, self.outside, self.scratch):
            directory.mkdir()
        self.store = ModelStore(self.store_dir, scratch=self.scratch)
        self.loader = PackageLoader(
            self.store,
            defaults=ModelSettings(),
            downloads=Downloads(self.store_dir, allowed_urls=[f"file://{self.outside}/.*"]),
            default_handler=default_handler,
            install_py_dep_per_model=True,
        )

    def load(
        self,
        url: str,
        *,
        handler: str | None = None,
        model: str | None = None,
        at_startup: bool = False,
    ) -> tuple[Package, ModelSettings]:
        return asyncio.run(
            self.loader.load(url, handler=handler, model=model, at_startup=at_startup)
        )

    def unpacked(self) -> list[Path]:
        return [path for parent in self.scratch.iterdir() for path in parent.iterdir()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def write(
    path: Path, manifest: Manifest = MANIFEST, files: Mapping[str, Path | bytes] = HANDLER
) -> Path:
    write_archive(path, manifest=manifest, files=files)
    return path


def test_an_archive_of_the_store_stays_there(world: World) -> None:
    path = write(world.store_dir / "digits.mar")
    package, _ = world.load("digits.mar")
    assert (package.url, package.manifest, package.downloaded) == ("digits.mar", MANIFEST, None)
    assert (package.model_dir / "handler.py").is_file()
    asyncio.run(world.loader.discard(package))
    assert not package.model_dir.exists()
    assert path.is_file()


def test_a_fetched_archive_goes_away_with_its_package(world: World) -> None:
    url = f"file://{write(world.outside / 'digits.mar')}"
    package, _ = world.load(url)
    assert package.url == url
    assert package.downloaded == world.store_dir / "digits.mar"
    assert world.store.names() == ["digits.mar"]
    asyncio.run(world.loader.discard(package))
    assert world.store.names() == []
    assert world.unpacked() == []
    assert (world.outside / "digits.mar").is_file()


def test_a_fetched_archive_stays_when_the_server_stops(world: World) -> None:
    package, _ = world.load(f"file://{write(world.outside / 'digits.mar')}")
    world.loader.stop()
    asyncio.run(world.loader.discard(package))
    assert world.store.names() == ["digits.mar"]
    assert world.unpacked() == []


def test_a_restarted_server_serves_what_it_fetched_before(world: World, tmp_path: Path) -> None:
    url = f"file://{write(world.outside / 'digits.mar')}"
    world.load(url)
    with pytest.raises(ArchiveExists):
        world.load(url)
    (world.outside / "digits.mar").unlink()
    package, _ = world.load(url, at_startup=True)
    assert (package.url, package.manifest) == (url, MANIFEST)
    asyncio.run(world.loader.discard(package))
    assert world.store.names() == ["digits.mar"]  # this server has not put it there
    with pytest.raises(ModelNotFound):
        world.load(f"file://{tmp_path}/digits.mar", at_startup=True)


def test_a_fetched_file_that_is_no_archive_is_not_kept(world: World) -> None:
    (world.outside / "page.mar").write_text("<html>not found</html>")
    with pytest.raises(ArchiveError, match="not a zip file"):
        world.load(f"file://{world.outside}/page.mar")
    assert world.store.names() == []
    assert world.unpacked() == []


def test_other_places_are_not_read(world: World, tmp_path: Path) -> None:
    path = write(tmp_path / "digits.mar")
    for url in (f"file://{path}", f"http://127.0.0.1{path}"):
        with pytest.raises(ModelNotFound, match="does not match any allowed"):
            world.load(url)
    for url in (str(path), str(tmp_path)):  # TorchServe serves any directory of the machine
        with pytest.raises(ModelNotFound, match="Model not found at"):
            world.load(url)


def test_a_directory_elsewhere_is_served_where_its_address_is_allowed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = world.outside / "my model"
    (directory / "MAR-INF").mkdir(parents=True)
    (directory / "MAR-INF" / "MANIFEST.json").write_text(MANIFEST.to_json())
    (directory / "handler.py").write_text("x = 1")
    (world.outside / "secret").symlink_to(tmp_path)
    monkeypatch.chdir(world.outside)
    for url in (str(directory), "my model", "./my model/"):
        package, _ = world.load(url)
        assert (package.url, package.manifest, package.downloaded) == (url, MANIFEST, None)
        asyncio.run(world.loader.discard(package))
    assert (directory / "handler.py").is_file()
    for url in ("secret", "/etc", "../outside/my model", "my model\0", "d" * 9999, "\udcff"):
        with pytest.raises(ModelNotFound):
            world.load(url)


# archives that say little about themselves


def test_a_model_needs_a_name_from_somewhere(world: World) -> None:
    write(world.store_dir / "digits.tar.mar", Manifest(handler="handler.py"))
    with pytest.raises(ArchiveError) as caught:
        world.load("digits.tar.mar")
    assert str(caught.value) == "Model name is not defined."
    assert world.load("digits.tar.mar", model="mine")[0].manifest.model_name is None
    named, _ = world.load("digits.tar.mar", at_startup=True)
    assert named.manifest.model_name == "digits.tar"


@pytest.mark.parametrize("name", ["digits.mar", "digits.model", "digits.tar.gz", "digits.tgz"])
def test_a_file_names_its_model_without_its_suffix(name: str, world: World) -> None:
    if name.endswith("gz"):
        with tarfile.open(world.store_dir / name, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("digits/handler.py"))
    else:
        write(world.store_dir / name, Manifest(handler="handler.py"))
    package, _ = world.load(name, at_startup=True, handler="handler.py")
    assert package.manifest.model_name == "digits"
    assert (package.model_dir / "handler.py").is_file()


def test_a_manifests_name_wins_over_its_files(world: World) -> None:
    write(world.store_dir / "other.mar")
    assert world.load("other.mar", at_startup=True)[0].manifest.model_name == "digits"


def test_an_archive_without_a_handler_takes_the_servers(tmp_path: Path) -> None:
    bare = Manifest(model_name="digits")
    (tmp_path / "with").mkdir()
    world = World(tmp_path / "with", default_handler="mine:handle")
    write(world.store_dir / "bare.mar", bare)
    write(world.store_dir / "own.mar")
    assert world.load("bare.mar")[0].handler == "mine:handle"
    assert world.load("own.mar")[0].handler is None
    assert world.load("own.mar", handler="given.py")[0].handler == "given.py"
    (tmp_path / "without").mkdir()
    world = World(tmp_path / "without")
    write(world.store_dir / "bare.mar", bare)
    with pytest.raises(ArchiveError, match="names no handler"):
        world.load("bare.mar")
    assert world.load("bare.mar", handler="given.py")[0].handler == "given.py"


def test_a_directory_without_a_manifest_is_served_when_the_call_says_all(world: World) -> None:
    (world.store_dir / "plain").mkdir()
    (world.store_dir / "plain" / "handler.py").write_bytes(b"x = 1")
    package, settings = world.load("plain", model="mine", handler="handler.py")
    assert package.manifest == Manifest(model_version="1.0", runtime="python")
    assert settings == ModelSettings()
    assert read_manifest(package.model_dir) == package.manifest  # handlers may look for the file


@pytest.mark.parametrize("name", ["MAR-INF", "MAR-INF/MANIFEST.json/x"])
def test_a_manifest_that_is_no_file_is_refused(name: str, world: World) -> None:
    path = world.store_dir / "odd" / name
    path.parent.mkdir(parents=True)
    path.write_text("x")
    (world.store_dir / "odd" / "handler.py").write_text("x = 1")
    with pytest.raises(ArchiveError, match="is no file"):
        world.load("odd", model="mine", handler="handler.py")
    assert world.unpacked() == []


def test_the_cpp_runtime_is_refused(world: World) -> None:
    write(world.store_dir / "cpp.mar", Manifest(model_name="m", handler="h", runtime="LSP"))
    with pytest.raises(ArchiveError, match="runtime LSP"):
        world.load("cpp.mar")


def test_an_archives_yaml_wins_over_configured_settings_and_these_over_defaults(
    world: World,
) -> None:
    manifest = Manifest(model_name="digits", handler="handler.py", config_file="c.yaml")
    write(world.store_dir / "digits.mar", manifest, {**HANDLER, "c.yaml": b"batchSize: 4\n"})
    configured = {"batchSize": 2, "maxBatchDelay": 50, "responseTimeout": 7}
    loader = PackageLoader(
        world.store,
        defaults=ModelSettings(response_timeout_s=60, startup_timeout_s=60),
        model_settings={"digits": {"1.0": configured}, "renamed": {"2.0": configured}},
    )
    _, settings = asyncio.run(loader.load("digits.mar"))
    assert (settings.batch_size, settings.max_batch_delay_ms) == (4, 50)
    assert (settings.response_timeout_s, settings.startup_timeout_s) == (7, 60)
    _, settings = asyncio.run(loader.load("digits.mar", model="renamed"))
    assert (settings.batch_size, settings.max_batch_delay_ms) == (4, 100)  # another version's


# who vouches for it


def test_an_archive_must_be_the_one_that_the_call_names(world: World) -> None:
    path = write(world.store_dir / "digits.mar")
    sha256 = digest(path)
    for url in ("digits.mar", f"digits.mar#sha256={sha256}"):
        package, _ = asyncio.run(world.loader.load(url, sha256=sha256.upper()))
        assert package.url == url
        asyncio.run(world.loader.discard(package))
    url = f"file://{write(world.outside / 'other.mar')}"
    with pytest.raises(ArchiveError, match=f"SHA-256 is {sha256} and not 0000"):
        world.load(f"digits.mar#sha256={'0' * 64}")
    with pytest.raises(DownloadFailed):
        world.load(f"{url}#sha256={'0' * 64}")
    assert world.store.names() == ["digits.mar"]
    assert world.unpacked() == []
    assert world.load(f"{url}#sha256={digest(world.outside / 'other.mar')}")[0].downloaded


def test_a_server_that_asks_for_signatures_serves_no_other_archive(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write(world.store_dir / "digits.mar")
    make_key(tmp_path / "release.pem")
    key = SigningKey.read(tmp_path / "release.pem")
    for kept in (None, tmp_path / "kept"):
        trust = Trust(policy=SignaturePolicy.REQUIRE, keys={key.key_id: key.public})
        store = ModelStore(world.store_dir, scratch=world.scratch, trust=trust, kept=kept)
        loader = PackageLoader(store, defaults=ModelSettings())
        with store:
            if kept is None:
                with pytest.raises(ArchiveError, match="it is not signed by a trusted key"):
                    asyncio.run(loader.load("digits.mar"))
                assert world.unpacked() == []
                sign_archive(path, key)
            for _ in range(2):
                package, _ = asyncio.run(loader.load("digits.mar"))
                assert package.signature.keys == (key.key_id,)
    assert f"archive digits.mar is signed by {key.key_id[:16]}" in caplog.text


# requirements


def test_requirements_that_cannot_be_installed_leave_nothing(world: World) -> None:
    manifest = Manifest(model_name="digits", handler="handler.py", requirements_file="r.txt")
    write(world.outside / "digits.mar", manifest, {**HANDLER, "r.txt": b"--no-index\nnowhere\n"})
    with pytest.raises(RequirementsFailed, match="installation failed for model mine\n"):
        world.load(f"file://{world.outside}/digits.mar", model="mine")
    assert world.unpacked() == []
    assert world.store.names() == []


@pytest.mark.slow
def test_a_virtual_environment_gives_the_workers_their_interpreter(world: World) -> None:
    manifest = Manifest(
        model_name="digits", handler="handler.py", requirements_file="r.txt", config_file="c.yaml"
    )
    files = {**HANDLER, "r.txt": b"--no-index\n", "c.yaml": b"useVenv: true\n"}
    write(world.store_dir / "digits.mar", manifest, files)
    package, _ = world.load("digits.mar")
    assert package.python == package.model_dir / "venv" / "bin" / "python"
    asyncio.run(world.loader.discard(package))
    assert world.unpacked() == []


def test_requirements_are_ignored_unless_they_are_wanted(world: World) -> None:
    manifest = Manifest(model_name="digits", handler="handler.py", requirements_file="r.txt")
    write(world.store_dir / "digits.mar", manifest, {**HANDLER, "r.txt": b"nowhere-at-all"})
    loader = PackageLoader(world.store, defaults=ModelSettings())
    package, _ = asyncio.run(loader.load("digits.mar"))
    assert package.python is None


# what is served from the start


@pytest.mark.parametrize(
    ("models", "pairs"),
    [
        ((), []),
        (("a=a.mar", "b.mar"), [("a", "a.mar"), (None, "b.mar")]),
        (("a=https://h/m.mar?x=1&y=2",), [("a", "https://h/m.mar?x=1&y=2")]),
        (("https://h/m.mar?x=1",), [(None, "https://h/m.mar?x=1")]),
        (("file:///m.mar",), [(None, "file:///m.mar")]),
        (("ALL",), [(None, "a.mar"), (None, "b.tar.gz")]),
    ],
)
def test_startup_models_may_have_names(
    models: tuple[str, ...], pairs: list[tuple[str | None, str]], world: World
) -> None:
    for name in ("a.mar", "b.tar.gz", "notes.txt"):
        (world.store_dir / name).write_bytes(b"")
    assert asyncio.run(world.loader.startup_urls(models)) == pairs
