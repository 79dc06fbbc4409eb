"""Signed archives of every format, and what is done to them by others."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from flambeau import plain_container
from flambeau.archive import digest, list_files, read_file, unpack, write_archive
from flambeau.archive_keys import SigningKey, make_key
from flambeau.archive_signing import sign_archive, verify_archive
from flambeau.cli import main
from flambeau.config import SignaturePolicy
from flambeau.errors import ArchiveError, ConfigError
from flambeau.file_digests import FILES_PATH, SIGNATURES_PATH
from flambeau.manifest import Manifest
from flambeau.plain_container import PlainFile, zip_pieces
from flambeau.signing import Trust, read_signatures, read_trust
from flambeau.torchserve.archive_files import ArchiveFormat, write
from tests.faults.collected import RecordProperty

MANIFEST = Manifest(model_name="digits", handler="handler.py", serialized_file="model.pt")
FILES: dict[str, Path | bytes] = {
    "model.pt": b"weights" * 2000,
    "handler.py": b"x = 1\n" * 50,
    "vocab/\u00e9.txt": b"one two",
}
FORMATS = ("default", "zip-store", "tgz", "no-archive")


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    make_key(tmp_path / "release.pem")
    return SigningKey.read(tmp_path / "release.pem")


@pytest.fixture
def trust(key: SigningKey) -> Trust:
    return Trust(policy=SignaturePolicy.REQUIRE, keys={key.key_id: key.public})


def make(directory: Path, archive_format: str = "default") -> Path:
    kind = ArchiveFormat(archive_format)
    path = directory / f"digits{kind.suffix}"
    files = {"MAR-INF/MANIFEST.json": MANIFEST.to_json().encode(), **FILES}
    write(path, files, kind, top="digits")
    return path


def refused(path: Path, trust: Trust) -> str:
    with pytest.raises(ArchiveError) as caught:
        verify_archive(path, trust)
    return str(caught.value)


@pytest.mark.parametrize("archive_format", FORMATS)
def test_a_signed_archive_of_any_format_unpacks_to_what_it_was(
    archive_format: str, tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    path = make(tmp_path, archive_format)
    assert "it has no MAR-INF/files.signatures.json" in refused(path, trust)
    path.chmod(0o750)
    assert sign_archive(path, key) == [key.key_id]
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert verify_archive(path, trust).keys == (key.key_id,)
    assert unpack(path, tmp_path / "model") == MANIFEST
    for name, content in FILES.items():
        assert (tmp_path / "model" / name).read_bytes() == content
    before = digest(path)
    sign_archive(path, key)
    assert digest(path) == before


def test_others_tools_read_a_signed_archive(tmp_path: Path, key: SigningKey) -> None:
    zipped, tgz = make(tmp_path), make(tmp_path, "tgz")
    for path in (zipped, tgz):
        sign_archive(path, key)
    with zipfile.ZipFile(zipped) as opened:
        assert opened.testzip() is None
        assert opened.read("model.pt") == FILES["model.pt"]
    with tarfile.open(tgz) as archive:
        assert "model/model.pt" in archive.getnames()
    if (gzip := shutil.which("gzip")) is not None:
        subprocess.run([gzip, "--test", str(tgz)], check=True, capture_output=True)


def zeros(size: int) -> Iterator[bytes]:
    yield b"\0" * size


def test_large_archives_have_zip64_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a kilobyte were 4 GiB."""
    monkeypatch.setattr(plain_container, "_ZIP64_FROM", 1000)
    files = [
        PlainFile(name=name, size_bytes=size, crc=0, pieces=partial(zeros, size))
        for name, size in (("a", 1500), ("b", 10), ("c", 2000))
    ]
    (tmp_path / "large.zip").write_bytes(b"".join(zip_pieces(files)))
    with zipfile.ZipFile(tmp_path / "large.zip") as opened:
        found = [(info.filename, info.file_size, info.header_offset) for info in opened.infolist()]
    assert [entry[:2] for entry in found] == [("a", 1500), ("b", 10), ("c", 2000)]
    assert found[2][2] > 1500


@pytest.mark.parametrize(("archive_format", "num_flips"), [("default", 500), ("tgz", 100)])
def test_no_byte_of_a_signed_archive_can_be_changed(
    archive_format: str,
    num_flips: int,
    tmp_path: Path,
    key: SigningKey,
    trust: Trust,
    *,
    record_property: RecordProperty,
) -> None:
    """Every region: headers, names, times, modes, contents, padding, list, signature, directory."""
    files = {"MAR-INF/MANIFEST.json": MANIFEST.to_json().encode(), "handler.py": b"x = 1\n"}
    path = tmp_path / f"digits{ArchiveFormat(archive_format).suffix}"
    write(path, files, ArchiveFormat(archive_format), top="digits")
    sign_archive(path, key)
    sound = path.read_bytes()
    positions = {len(sound) * number // num_flips for number in range(num_flips)}
    passed: list[int] = []

    def approve(file_list: bytes | None, signatures: bytes | None) -> bool:
        return trust.judge(file_list, signatures).is_trusted

    for number, at in enumerate(sorted(positions)):
        changed = sound[at] ^ (1 << number % 8)
        path.write_bytes(sound[:at] + bytes([changed]) + sound[at + 1 :])
        try:
            unpack(path, tmp_path / "model", approve=approve)
        except ArchiveError:
            assert not (tmp_path / "model").exists()
        else:
            passed.append(at)
    assert len(positions) == num_flips
    assert passed == []
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith(".")) == []
    record_property("case", f"C19 changed bytes, {path.suffix[1:]}")
    record_property("refused", num_flips - len(passed))


def changed_directory(tmp_path: Path, key: SigningKey) -> Path:
    path = make(tmp_path, "no-archive")
    sign_archive(path, key)
    return path


def test_a_changed_file_is_named_with_what_differs(
    tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    path = changed_directory(tmp_path, key)
    (path / "model.pt").write_bytes(b"Weights" + b"weights" * 1999)
    said = refused(path, trust)
    assert "entry 'model.pt' has SHA-256 " in said
    assert "copy it again from where it was made" in said
    (path / "model.pt").write_bytes(b"weights")
    assert "entry 'model.pt' has 7 bytes and not 14000" in refused(path, trust)


def test_swapped_dropped_and_added_files_are_refused(
    tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    path = changed_directory(tmp_path, key)
    first, second = path / "model.pt", path / "handler.py"
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert "entry 'handler.py' has 14000 bytes" in refused(path, trust)
    first.write_bytes(contents[0])
    second.unlink()
    assert "entry 'handler.py' is listed and not there" in refused(path, trust)
    second.write_bytes(contents[1])
    verify_archive(path, trust)
    (path / "sitecustomize.py").write_text("evil = 1")
    assert "entry 'sitecustomize.py' is not listed" in refused(path, trust)


def test_without_its_list_or_signatures_it_is_not_signed(
    tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    for name in (FILES_PATH, SIGNATURES_PATH):
        path = changed_directory(tmp_path, key)
        (path / name).unlink()
        assert "it is not signed by a trusted key" in refused(path, trust)
        shutil.rmtree(path)


def test_a_signature_that_is_cut_or_of_another_list_is_refused(
    tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    path = changed_directory(tmp_path, key)
    sound = (path / SIGNATURES_PATH).read_bytes()
    for text in (sound[:-20], sound.replace(b'"signature":"', b'"signature":"AAAA'), b"", b"{}"):
        (path / SIGNATURES_PATH).write_bytes(text)
        assert "files.signatures.json" in refused(path, trust)
    (path / SIGNATURES_PATH).write_bytes(sound)
    (path / "handler.py").write_text("y = 1")
    other = tmp_path / "other"
    shutil.copytree(path, other)
    make_key(tmp_path / "mallory.pem")
    sign_archive(other, SigningKey.read(tmp_path / "mallory.pem"))
    (other / SIGNATURES_PATH).write_bytes(sound)
    assert f"the signature of key {key.key_id} does not fit" in refused(other, trust)


def test_an_archive_that_another_key_has_signed_is_refused(
    tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    path = make(tmp_path)
    mallory = make_key(tmp_path / "mallory.pem")
    sign_archive(path, SigningKey.read(tmp_path / "mallory.pem"))
    assert f"key {mallory} is not trusted" in refused(path, trust)
    assert sorted(sign_archive(path, key)) == sorted([mallory, key.key_id])
    assert verify_archive(path, trust).keys == (key.key_id,)
    revoked = Trust(policy=trust.policy, keys=trust.keys, revoked=frozenset({key.key_id}))
    assert f"key {key.key_id} is revoked" in refused(path, revoked)


def test_a_signed_archive_that_was_packed_again_is_refused(
    tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    path = make(tmp_path)
    sign_archive(path, key)
    unpack(path, tmp_path / "model")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in sorted((tmp_path / "model").rglob("*")):
            if file.is_file():
                zipped.write(file, file.relative_to(tmp_path / "model"))
    assert "the bytes around them are not" in refused(path, trust)
    verify_archive(tmp_path / "model", trust)  # its content is what was signed


def test_signing_after_a_change_drops_signatures_that_do_not_fit(
    tmp_path: Path, key: SigningKey
) -> None:
    path = changed_directory(tmp_path, key)
    (path / "handler.py").write_text("y = 1")
    other = make_key(tmp_path / "other.pem")
    assert sign_archive(path, SigningKey.read(tmp_path / "other.pem")) == [other]


def test_a_warning_does_not_refuse(tmp_path: Path, key: SigningKey) -> None:
    path = make(tmp_path)
    for policy, status in ((SignaturePolicy.WARN, "unsigned"), (SignaturePolicy.OFF, "unchecked")):
        assert verify_archive(path, Trust(policy=policy, keys={})).status == status
    sign_archive(path, key)
    assert verify_archive(path, Trust(policy=SignaturePolicy.WARN)).status == "untrusted"


def test_a_listed_file_is_checked_without_any_signature(tmp_path: Path) -> None:
    path = tmp_path / "digits.mar"
    write_archive(path, manifest=MANIFEST, files=FILES, digests=True)
    assert FILES_PATH in list_files(path)
    unpack(path, tmp_path / "model")
    (tmp_path / "model" / "handler.py").write_text("z = 1\n" * 50)
    with pytest.raises(ArchiveError, match=r"entry 'handler\.py' has SHA-256"):
        unpack(tmp_path / "model", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("archive_format", ["default", "tgz"])
def test_a_file_that_is_read_in_pieces_is_signed(
    archive_format: str, tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    path, content = tmp_path / "large.mar", bytes(range(256)) * 10_000
    write(path, {"model.pt": content}, ArchiveFormat(archive_format), top="large")
    sign_archive(path, key)
    assert verify_archive(path, trust).is_trusted
    assert read_file(path, "model.pt") == content


def test_an_archive_directory_without_metadata_is_signed(
    tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    (path := tmp_path / "model").mkdir()
    (path / "handler.py").write_text("x = 1")
    (path / "empty").mkdir()
    assert sign_archive(path, key) == [key.key_id]
    assert verify_archive(path, trust).is_trusted
    assert sorted(each.name for each in (path / "MAR-INF").iterdir()) == [
        "files.json",
        "files.signatures.json",
    ]


def test_a_list_that_nobody_has_signed_yet_is_signed(
    tmp_path: Path, key: SigningKey, trust: Trust
) -> None:
    path = tmp_path / "digits.mar"
    write_archive(path, manifest=MANIFEST, files=FILES, digests=True)
    file_list = read_file(path, FILES_PATH)
    assert sign_archive(path, key) == [key.key_id]
    assert read_file(path, FILES_PATH) == file_list
    assert verify_archive(path, trust).is_trusted


def test_what_is_verified_is_unpacked_nowhere_else_and_removed(
    tmp_path: Path, key: SigningKey, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)
    sign_archive(path, key)
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = sorted(tmp_path.rglob("*"))
    verify_archive(path, trust)
    assert sorted(tmp_path.rglob("*")) == before


class MeddlingKey(SigningKey):
    """Signs, and changes the archive at the same time."""

    archive: Path

    def sign(self, file_list: bytes) -> bytes:
        content = self.archive.read_bytes()
        self.archive.write_bytes(content.replace(b"weightsweights", b"WeightsWeights", 1))
        return super().sign(file_list)


def test_an_archive_that_changes_while_it_is_signed_is_not_written(
    tmp_path: Path, key: SigningKey
) -> None:
    path = make(tmp_path, "tgz")
    sign_archive(path, key)  # it is not deflated any more
    make_key(tmp_path / "meddling.pem")
    meddling = MeddlingKey.read(tmp_path / "meddling.pem")
    assert isinstance(meddling, MeddlingKey)
    meddling.archive = path
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        ArchiveError, match=r"entry 'model\.pt' changed while it was read; try again"
    ):
        sign_archive(path, meddling)
    assert sorted(tmp_path.iterdir()) == before


def test_an_archive_that_cannot_be_signed_stays_as_it_is(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "digits.mar"
    path.write_bytes(b"no archive")
    with pytest.raises(ArchiveError, match="not a zip file"):
        sign_archive(path, key)
    assert path.read_bytes() == b"no archive"


# keys


def test_a_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    make_key(tmp_path / "release.pem")
    assert stat.S_IMODE((tmp_path / "release.pem").stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="exists"):
        make_key(tmp_path / "release.pem")


def test_keys_are_read_from_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    ids = [make_key(tmp_path / f"{name}.pem") for name in "ab"]
    shutil.copy(tmp_path / "a.pub", tmp_path / "keys")
    (tmp_path / "keys" / "README").write_text("not a key")
    paths = [str(tmp_path / "keys"), str(tmp_path / "b.pub")]
    found = read_trust(SignaturePolicy.REQUIRE, trusted_keys=paths, revoked_keys=[])
    assert sorted(found.keys) == sorted(ids)


@pytest.mark.parametrize(
    ("paths", "revoked", "says"),
    [
        ([], [], "trusted_keys has no key"),
        (["a.pem"], [], "no public key"),
        (["nowhere.pub"], [], "No such file"),
        (["a.pub"], ["abc"], "give the 64 digits"),
        (["a.pub"], ["THE KEY"], "trusted_keys has no key"),
    ],
)
def test_settings_that_could_not_be_meant_are_refused(
    paths: list[str], revoked: list[str], says: str, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "a.pem")
    with pytest.raises(ConfigError, match=says):
        read_trust(
            SignaturePolicy.REQUIRE,
            trusted_keys=[str(tmp_path / path) for path in paths],
            revoked_keys=[key if text == "THE KEY" else text for text in revoked],
        )


def test_the_command_line_makes_keys_signs_verifies_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    verify = ["archive", "verify", "digits.mar", "--trusted-keys", "release.pub"]
    assert main(["archive", "keygen", "release.pem"]) == 0
    assert main(verify) == 2
    assert "sign it with `flambeau archive sign`" in capsys.readouterr().err
    assert main(["archive", "sign", "digits.mar", "--key", "release.pem"]) == 0
    (key,) = read_signatures(read_file(Path("digits.mar"), SIGNATURES_PATH) or b"")
    assert main(verify) == 0
    assert main(["archive", "show", "digits.mar"]) == 0
    assert capsys.readouterr().out.count(key) == 3
    assert main(["archive", "sign", "digits.mar", "--key", "release.pub"]) == 2
    assert "no private key" in capsys.readouterr().err
