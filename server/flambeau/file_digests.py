"""`MAR-INF/files.json`: the SHA-256 of every file of an archive, as one canonical text.

The text is what a signature covers (`signing.py`), so the same files always give the same bytes:
sorted keys, no blanks, ASCII. It lists all files but itself and the signatures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flambeau.errors import ArchiveError

FILES_PATH = "MAR-INF/files.json"
SIGNATURES_PATH = "MAR-INF/files.signatures.json"
UNLISTED = frozenset({FILES_PATH, SIGNATURES_PATH})

_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What one file must be.

    Attributes:
        size_bytes: Its size.
        sha256: In hexadecimal.
    """

    size_bytes: int
    sha256: str


def canonical_json(document: object) -> bytes:
    """One text for one document, whoever writes it."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def list_of_files(files: Mapping[str, FileDigest]) -> bytes:
    """The list as `MAR-INF/files.json` has it; what is never listed is left out."""
    entries = {
        name: {"sha256": file.sha256, "size": file.size_bytes}
        for name, file in files.items()
        if name not in UNLISTED
    }
    return canonical_json({"files": entries, "format": _FORMAT})


def read_list(text: bytes) -> dict[str, FileDigest]:
    """The list that `list_of_files` wrote.

    Raises:
        ArchiveError: It is anything else, or of a later format.
    """
    document = parse_canonical(text, FILES_PATH, file_format=_FORMAT)
    entries = document.get("files")
    if not isinstance(entries, dict):
        raise _damaged(FILES_PATH, "it lists no files")
    files: dict[str, FileDigest] = {}
    for name, entry in entries.items():
        match entry:
            case {"sha256": str(sha256), "size": int(size)} if _SHA256.fullmatch(sha256):
                files[name] = FileDigest(size, sha256)
            case _:
                raise _damaged(FILES_PATH, f"what it says of {name!r} is no size and SHA-256")
    return files


def check_files(listed: Mapping[str, FileDigest], found: Mapping[str, FileDigest]) -> None:
    """Hold the files there are against the list.

    Raises:
        ArchiveError: One differs, is missing or is too many; the message names it.
    """
    for name, file in listed.items():
        if (there := found.get(name)) is None:
            raise _tampered(name, "is listed and not there")
        if there.size_bytes != file.size_bytes:
            raise _tampered(name, f"has {there.size_bytes} bytes and not {file.size_bytes}")
        if there.sha256 != file.sha256:
            raise _tampered(name, f"has SHA-256 {there.sha256} and not {file.sha256}")
    for name in found:
        if name not in listed and name not in UNLISTED:
            raise _tampered(name, "is not listed")


def parse_canonical(text: bytes, name: str, *, file_format: int) -> dict[str, Any]:
    """A JSON object of one format, written in its canonical form and in no other.

    Raises:
        ArchiveError: It is not; the message calls it `name`.
    """
    try:
        document: object = json.loads(text)
        is_canonical = canonical_json(document) == text
    except (ValueError, RecursionError) as error:
        raise _damaged(name, str(error)) from error
    if not isinstance(document, dict) or not is_canonical:
        raise _damaged(name, "it is not in the form that `flambeau archive sign` writes")
    if document.get("format") != file_format:
        raise ArchiveError(
            f"{name} has format {document.get('format')!r}, and this version reads "
            f"{file_format}; use a newer flambeau, or sign the archive again with this one"
        )
    return document


def _damaged(name: str, why: str) -> ArchiveError:
    return ArchiveError(f"{name} is damaged ({why}); copy, build or sign the archive again")


def _tampered(name: str, what: str) -> ArchiveError:
    return ArchiveError(
        f"entry {name!r} {what}, says {FILES_PATH}: the archive was changed after it was made; "
        "copy it again from where it was made, or sign it again if you know the change"
    )
