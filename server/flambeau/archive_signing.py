"""Sign an archive where it lies, and verify one as a server would.

A signed archive file is written anew, in the form of `plain_container.py`, and takes the place of
the old one when it is complete; an archive directory gets the two files, the signatures last.
Signing again with another key adds a signature, unless a file has changed since: then the others
are dropped, as they would not fit.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from flambeau.archive import unpack
from flambeau.archive_content import Item, is_gzip, model_root, opened
from flambeau.archive_keys import SigningKey
from flambeau.errors import ArchiveError
from flambeau.file_digests import (
    FILES_PATH,
    SIGNATURES_PATH,
    UNLISTED,
    FileDigest,
    list_of_files,
)
from flambeau.plain_container import PlainFile, tgz_pieces, zip_pieces
from flambeau.signing import (
    UNCHECKED,
    Trust,
    Verdict,
    read_signatures,
    signatures_text,
)
from flambeau.unpack_limits import UnpackLimits
from flambeau.unpacked_tree import Written, measured
from flambeau.written_aside import written_aside

_LIMITS = UnpackLimits(max_total_bytes=1 << 62)


def sign_archive(path: Path, key: SigningKey) -> list[str]:
    """Sign an archive of any format with one more key.

    Returns:
        The ids of the keys that have signed it now.

    Raises:
        ArchiveError: It is no archive, is unsafe to unpack, or cannot be written.
    """
    with opened(path, _LIMITS) as content:
        items = {item.name: item for item in content if not item.is_dir}
        if path.is_dir():
            # no CRC is needed, nor is anything but the two files written
            found = {name: measured(item.pieces()).digest for name, item in items.items()}
            added, signers = _signed(items, found, key)
            root = model_root(path)
            (root / FILES_PATH).parent.mkdir(exist_ok=True)
            for name, text in added.items():
                with written_aside(root / name) as file:
                    file.write(text)
            return signers
        known = {
            name: measured(item.pieces()) for name, item in items.items() if name not in UNLISTED
        }
        added, signers = _signed(items, {n: m.digest for n, m in known.items()}, key)
        files = [_plain(items[name], each) for name, each in known.items()]
        files += [_plain_text(name, text) for name, text in added.items()]
        with path.open("rb") as source:
            pieces = tgz_pieces(files) if is_gzip(source) else zip_pieces(files)
        with written_aside(path) as file:
            file.writelines(pieces)
            shutil.copymode(path, file.name)
    return signers


def verify_archive(path: Path, trust: Trust) -> Verdict:
    """Judge an archive by unpacking it, as a server does, beside nothing that is served.

    Raises:
        ArchiveError: It is no sound archive, or the policy of `trust` refuses it.
    """
    verdict = UNCHECKED

    def approve(file_list: bytes | None, signatures: bytes | None) -> bool:
        nonlocal verdict
        verdict = trust.judge(file_list, signatures)
        return verdict.is_trusted

    with tempfile.TemporaryDirectory(prefix="flambeau-verify-") as directory:
        unpack(path, Path(directory) / "model", limits=_LIMITS, approve=approve)
    return verdict


def _signed(
    items: Mapping[str, Item], found: Mapping[str, FileDigest], key: SigningKey
) -> tuple[dict[str, bytes], list[str]]:
    """The list of files and its signatures, and the ids of those who signed."""
    file_list = list_of_files(found)
    signatures: dict[str, bytes] = {}
    if _bytes_of(items.get(FILES_PATH)) == file_list and SIGNATURES_PATH in items:
        signatures = read_signatures(_bytes_of(items[SIGNATURES_PATH]))
    signatures[key.key_id] = key.sign(file_list)
    texts = {FILES_PATH: file_list, SIGNATURES_PATH: signatures_text(signatures)}
    return texts, sorted(signatures)


def _bytes_of(item: Item | None) -> bytes:
    return b"" if item is None else b"".join(item.pieces())


def _plain(item: Item, known: Written) -> PlainFile:
    """The file, read once more: as it was when it was measured, or not at all."""

    def pieces() -> Iterator[bytes]:
        crc = 0
        for piece in item.pieces():
            crc = zlib.crc32(piece, crc)
            yield piece
        if crc != known.crc:
            raise ArchiveError(f"entry {item.name!r} changed while it was read; try again")

    return PlainFile(
        name=item.name, size_bytes=known.digest.size_bytes, crc=known.crc, pieces=pieces
    )


def _plain_text(name: str, text: bytes) -> PlainFile:
    return PlainFile(
        name=name, size_bytes=len(text), crc=zlib.crc32(text), pieces=lambda: iter([text])
    )
