"""Archives as `tar.gz` files, from torch-model-archiver, from `tar`, and from attackers."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.archive import list_files, read_file, read_manifest, unpack
from flambeau.errors import ArchiveError
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.tar_entries import TarEntry, TarStream, checked_entries, contents, tar_stream
from flambeau.unpack_limits import UnpackLimits

MANIFEST = Manifest(model_name="digits", handler="base_handler")
MEMBERS: list[tarfile.TarInfo | tuple[str, bytes]] = [
    ("digits/model.pt", b"weights" * 1000),
    ("digits/vocab/words.txt", b"one two"),
    (f"digits/{MANIFEST_PATH}", MANIFEST.to_json().encode()),
]
CONTENT = {
    "model.pt": b"weights" * 1000,
    "vocab/words.txt": b"one two",
    MANIFEST_PATH: MANIFEST.to_json().encode(),
}


def tar(members: list[tarfile.TarInfo | tuple[str, bytes]]) -> bytes:
    """An uncompressed tar file; a TarInfo has no content, whatever size it claims."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writer:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                writer.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                writer.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, *, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def write(directory: Path, data: bytes, *, name: str = "digits.tar.gz") -> Path:
    path = directory / name
    path.write_bytes(gzip.compress(data, mtime=0))
    return path


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["digits.tar.gz", "digits.tgz", "digits.model", "digits.mar"])
def test_the_top_directory_is_dropped_whatever_the_files_name(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, tar(MEMBERS), name=name)
    assert unpack(path, tmp_path / "model") == MANIFEST == read_manifest(path)
    assert files(tmp_path / "model") == CONTENT
    assert list_files(path) == {key: len(value) for key, value in CONTENT.items()}
    assert read_file(path, "vocab/words.txt") == b"one two"


@pytest.mark.parametrize("prefix", ["", "./", "./digits/", "digits/", "other-name/"])
def test_what_tar_itself_writes_is_read(prefix: str, tmp_path: Path) -> None:
    directories = [prefix.rstrip("/") or "vocab", f"{prefix}MAR-INF"]
    members: list[tarfile.TarInfo | tuple[str, bytes]] = [
        special(directory, tarfile.DIRTYPE, mode=0o755) for directory in directories
    ]
    members += [(f"{prefix}{key}", value) for key, value in CONTENT.items()]
    path = write(tmp_path, tar(members))
    assert unpack(path, tmp_path / "model") == MANIFEST
    assert files(tmp_path / "model") == CONTENT


def test_a_file_beside_the_top_directory_keeps_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, tar([*MEMBERS, ("LICENSE", b"free")]))
    assert unpack(path, tmp_path / "model") == MANIFEST
    assert files(tmp_path / "model") == {**CONTENT, "LICENSE": b"free"}


def test_long_names_are_read(tmp_path: Path) -> None:
    name = "/".join(["d" * 60] * 5) + "/\u00e9.txt"
    path = write(tmp_path, tar([*MEMBERS, (f"digits/{name}", b"x")]))
    assert read_file(path, name) == b"x"


def negative(size: int) -> bytes:
    """A header that gives its size as a negative number, which tar can write in base 256."""
    header = bytearray(tar([("digits/a.bin", b"")])[:512])
    header[124:136] = (256**12 + size).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def claiming(size: int, name: str = "digits/a.bin", kind: bytes = tarfile.REGTYPE) -> bytes:
    info = special(name, kind)
    info.size = size
    return info.tobuf(format=tarfile.GNU_FORMAT)


ZEROS = b"\0" * (50 << 20)
# name of the case: an uncompressed tar file, and what the refusal says
CORPUS: dict[str, tuple[bytes, str]] = {
    "parent": (tar([("../evil.txt", b"x")]), "part"),
    "parent below the top": (tar([("digits/../../evil.txt", b"x")]), "part"),
    "absolute": (tar([("/tmp/evil.txt", b"x")]), "relative"),
    "absolute below the top": (tar([("digits//tmp/evil.txt", b"x")]), "part"),
    "backslash": (tar([("digits/..\\evil.txt", b"x")]), "backslash"),
    "control character": (tar([("digits/a\nb", b"x")]), "control character"),
    "symlink": (tar([special("digits/a", tarfile.SYMTYPE, target="/etc/passwd")]), "is a link"),
    "hard link": (tar([special("digits/a", tarfile.LNKTYPE, target="digits/b")]), "is a link"),
    "fifo": (tar([special("digits/a", tarfile.FIFOTYPE)]), "special"),
    "block device": (tar([special("digits/a", tarfile.BLKTYPE)]), "special"),
    "character device": (tar([special("digits/a", tarfile.CHRTYPE)]), "special"),
    "setuid": (tar([special("digits/a", tarfile.REGTYPE, mode=0o4755)]), "setuid"),
    "sticky directory": (tar([special("digits/a", tarfile.DIRTYPE, mode=0o1777)]), "setuid"),
    "setgid": (tar([special("digits/a", tarfile.REGTYPE, mode=0o2755)]), "setuid, setgid or"),
    "sparse file": (tar([special("digits/a", tarfile.GNUTYPE_SPARSE)]), "is a link or special"),
    "directory with data": (claiming(512, kind=tarfile.DIRTYPE) + ZEROS[:1024], "claims 512 bytes"),
    "twice": (tar([("digits/a", b"x"), ("digits/a", b"y")]), "twice"),
    "twice without the top": (tar([("digits/a", b"x"), ("other/a", b"y")]), "twice"),
    "file and directory": (tar([("digits/a", b"x"), ("digits/a/b", b"y")]), "is a file and also"),
    "many entries": (tar([(f"digits/{i}", b"") for i in range(10_001)]), "more than 10000"),
    "ratio": (tar([("digits/a", ZEROS)]), "too much for its size"),
    "huge size": (claiming(1 << 50) + ZEROS[:1024], "too much for its size"),
    "huge name": (claiming(1 << 30, kind=tarfile.GNUTYPE_LONGNAME), "a header in it claims"),
    "huge attributes": (claiming(1 << 30, kind=tarfile.XHDTYPE), "a header in it claims"),
    "nested attributes": (claiming(0, kind=tarfile.XHDTYPE) * 5000, "not a sound tar"),
    "negative size": (negative(-512), "claims -512 bytes"),
    "negative size, backwards": (negative(-1024) * 2, "claims -1024 bytes"),
    "more than is there": (claiming(5000), "not a sound tar"),
    "no tar file": (b"hello" * 1000, "not a sound tar"),
    "nothing": (b"", "not a sound tar"),
    "a damaged header": (tar(MEMBERS[:1]).rstrip(b"\0") + b"x" * 2048, "header is damaged|sound"),
    "bytes behind the end": (tar(MEMBERS) + b"hidden", "other bytes follow"),
}


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_archive_is_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    data, says = CORPUS[case]
    path = write(tmp_path, data)
    with pytest.raises(ArchiveError, match=says) as caught:
        unpack(path, tmp_path / "model")
    text = str(caught.value)
    assert "digits.tar.gz: " in text
    assert "entry " not in text or "entry '" in text
    assert [item.name for item in tmp_path.iterdir()] == ["digits.tar.gz"]


def names_in(*names: str) -> list[str]:
    """What these files are called once they are read."""
    data = gzip.compress(tar([(name, b"") for name in names]))
    with tar_stream(io.BytesIO(data), UnpackLimits()) as stream:
        return [entry.name for entry in checked_entries(stream, UnpackLimits())]


def test_without_a_manifest_the_first_part_of_each_name_is_dropped() -> None:
    assert names_in("m/a.txt", "m/b/c.txt") == ["a.txt", "b/c.txt"]
    assert names_in("./m/a.txt", "./m/b/c.txt") == ["a.txt", "b/c.txt"]
    assert names_in("a.txt", "b/c.txt") == ["a.txt", "c.txt"]
    assert names_in("./a.txt", "./b/c.txt") == ["a.txt", "b/c.txt"]  # the dot is the first part
    assert names_in("./a.txt") == ["a.txt"]


def test_a_large_file_is_read_whole_and_in_pieces(tmp_path: Path) -> None:
    large = bytes(range(256)) * 12_000
    path = write(tmp_path, tar([("digits/large.bin", large), *MEMBERS]))
    assert read_file(path, "large.bin") == large
    with path.open("rb") as file, tar_stream(file, UnpackLimits()) as stream:
        first, *_ = checked_entries(stream, UnpackLimits())
        assert max(map(len, contents(stream, first))) <= 1 << 20


def test_an_entry_that_ends_early_is_named() -> None:
    entry = TarEntry(name="a.bin", is_dir=False, data_at=512, size_bytes=100_000)
    data = gzip.compress(tar([("a.bin", b"x")]))
    with (
        pytest.raises(ArchiveError, match=r"entry 'a\.bin' ends early"),
        tar_stream(io.BytesIO(data), UnpackLimits()) as stream,
    ):
        list(contents(stream, entry))


def test_as_many_entries_as_the_limit_are_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path, tar(MEMBERS))
    unpack(path, tmp_path / "model", limits=UnpackLimits(max_entries=len(MEMBERS)))
    assert files(tmp_path / "model") == CONTENT


def test_limits_hold_for_tar_files(tmp_path: Path) -> None:
    path = write(tmp_path, tar(MEMBERS))
    for limits in (
        UnpackLimits(max_total_bytes=100),
        UnpackLimits(max_entries=2),
        UnpackLimits(max_depth=2),
    ):
        with pytest.raises(ArchiveError, match=r"at most|more than 2 entries"):
            unpack(path, tmp_path / "model", limits=limits)


@given(position=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_archive_is_refused_or_unpacks_unharmed(
    position: int, value: int, *, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    path = write(root, tar(MEMBERS))
    sound = path.read_bytes()
    at = position % len(sound)
    path.write_bytes(sound[:at] if cut else sound[:at] + bytes([value]) + sound[at + 1 :])
    try:
        unpack(path, root / "model")
    except ArchiveError:
        assert [item.name for item in root.iterdir()] == ["digits.tar.gz"]
    else:
        assert files(root / "model") == CONTENT


def refused(stream: bytes, limits: UnpackLimits | None = None) -> str:
    """Why a gzip file is refused when its entries are listed."""
    limits = limits or UnpackLimits()
    with (
        pytest.raises(ArchiveError) as caught,
        tar_stream(io.BytesIO(stream), limits) as opened,
    ):
        checked_entries(opened, limits)
    return str(caught.value)


def end_of(data: bytes, limits: UnpackLimits) -> int:
    """The last offset that may be asked for."""
    stream = TarStream(io.BytesIO(data), limits)
    with pytest.raises(ArchiveError, match="which is too much for its size") as caught:
        stream.seek(1 << 60)
    end = int(str(caught.value).split()[5])
    assert str(caught.value).startswith(f"it inflates to more than {end} bytes, ")
    with pytest.raises(ArchiveError):
        stream.seek(end + 1)
    stream.seek(end)
    assert stream.read(min(end - stream.tell(), 1 << 20)) == b""
    with pytest.raises(ArchiveError):
        stream.read(end - stream.tell() + 1)
    stream.close()
    return end


def test_how_much_is_inflated_is_bounded_by_the_limits_and_by_the_size_of_the_file() -> None:
    data = gzip.compress(bytes(5000))
    limits = UnpackLimits(max_total_bytes=100_000, max_entries=3)
    assert end_of(data, limits) == 100_000 + 3 * (32_768 + 512)
    limits = UnpackLimits(max_total_bytes=1 << 40, max_ratio=3)
    assert end_of(data, limits) == (10 << 20) + 3 * len(data)


def test_a_piece_of_the_stream_is_a_mebibyte_at_most() -> None:
    stream = TarStream(io.BytesIO(gzip.compress(bytes(2 << 20))), UnpackLimits())
    assert stream.read(1 << 20) == bytes(1 << 20)
    assert stream.read(0) == b""
    assert stream.tell() == 1 << 20
    for size in (-1, (1 << 20) + 1):
        with pytest.raises(ArchiveError, match=f"a header in it claims {size} bytes"):
            stream.read(size)
    stream.close()
    with pytest.raises(ValueError, match="closed file"):
        stream.read(1)


def test_names_are_read_to_the_size_of_a_header() -> None:
    for size, says in ((32_768, "in a part; at most 255 fit"), (32_769, "claims 33280 bytes")):
        name = claiming(size, kind=tarfile.GNUTYPE_LONGNAME) + b"n" * size + bytes(-size % 512)
        assert says in refused(gzip.compress(name + tar([("a", b"x")])))


def test_a_gzip_file_that_does_not_fit_its_checksum_is_damaged() -> None:
    sound = gzip.compress(tar(MEMBERS))
    broken = sound[:-8] + bytes([sound[-8] ^ 1]) + sound[-7:]
    assert refused(broken).startswith("not a sound tar.gz file (CRC check failed")
    assert refused(sound[:-8]).startswith("not a sound tar.gz file (Compressed file ended")


def test_entries_tell_where_their_bytes_are_and_are_read_in_turns() -> None:
    bodies = [bytes([number]) * 1_500_000 for number in (1, 2)]
    data = tar([special("m/d", tarfile.DIRTYPE), ("m/d/a", bodies[0]), ("m/d/b", bodies[1])])
    with tar_stream(io.BytesIO(gzip.compress(data)), UnpackLimits()) as stream:
        directory, *files_there = checked_entries(stream, UnpackLimits())
        assert directory == TarEntry(name="d", is_dir=True, data_at=512, size_bytes=0)
        for entry, body in zip(files_there, bodies, strict=True):
            assert data[entry.data_at : entry.data_at + entry.size_bytes] == body
        first, second = (contents(stream, entry) for entry in files_there)
        pieces = list(zip(first, second, strict=True))
    assert [b"".join(each) for each in zip(*pieces, strict=True)] == bodies


def test_bytes_behind_the_end_are_found_wherever_they_are() -> None:
    for gap in (0, 3 << 20):
        said = refused(gzip.compress(tar(MEMBERS) + bytes(gap) + b"x"))
        assert said.startswith("an entry's header is damaged, or other bytes follow the archive")


def test_entries_and_bytes_over_the_limits_are_told_with_the_limit() -> None:
    data = gzip.compress(tar(MEMBERS))
    assert refused(data, UnpackLimits(max_entries=2)).startswith("it has more than 2 entries, ")
    total = sum(map(len, CONTENT.values()))
    said = refused(data, UnpackLimits(max_total_bytes=total - 1))
    assert said.startswith(f"the files take {total} bytes unpacked; at most {total - 1} are")
    with tar_stream(io.BytesIO(data), UnpackLimits()) as stream:
        assert len(checked_entries(stream, UnpackLimits(max_total_bytes=total))) == 3
