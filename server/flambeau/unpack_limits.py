"""What an archive may ask of the disk it is unpacked on: how much, and under which names.

Archives come from strangers and from other file systems, so a name must mean one file inside the
directory wherever it is unpacked. A name that does not is no reason to skip one entry but to refuse
the archive: a model with a file missing is a different model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from flambeau.errors import ArchiveError


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackLimits:
    """The most an archive may ask for.

    Attributes:
        max_entries: Files and directories together.
        max_total_bytes: All files, inflated; weights of 256 GiB are the largest there are on one
            machine. What does not fit on the disk is refused in any case.
        max_depth: Parts of one entry's path.
        max_name_bytes: One part of a path, in UTF-8; 255 is what Linux file systems take.
        max_ratio: Inflated to stored size, for files over 8 MiB. Weights hardly compress; 200 MB of
            zeros reach 1,029.
    """

    max_entries: int = 10_000
    max_total_bytes: int = 256 << 30
    max_depth: int = 16
    max_name_bytes: int = 255
    max_ratio: int = 200


def check_names(named: Iterable[tuple[str, bool]], *, limits: UnpackLimits) -> list[str]:
    """Check names that are to become one directory tree.

    Args:
        named: Each name, `/` between parts, and whether it is a directory.
        limits: Their number, depth and length.

    Returns:
        The names without a directory's trailing `/`.

    Raises:
        ArchiveError: A name leaves the directory, is not portable, or means the same file as
            another on some file system.
    """
    names: list[str] = []
    kinds: dict[str, bool] = {}  # by folded name: whether it is a directory
    spellings: dict[str, str] = {}  # by folded name: as first written, parents included
    for raw, is_dir in named:
        name = raw[:-1] if is_dir and raw.endswith("/") else raw
        parts = _checked_parts(name, limits)
        for end in range(1, len(parts) + 1):
            spelt = "/".join(parts[:end])
            known = spellings.setdefault(_folded(spelt), spelt)
            if known != spelt:
                raise refusal(name, f"is the same file as {known!r} where case is ignored")
        if _folded(name) in kinds:
            raise refusal(name, "is in it twice")
        kinds[_folded(name)] = is_dir
        names.append(name)
        if len(names) > limits.max_entries:
            raise ArchiveError(
                f"entry {name!r} is number {len(names)}; at most {limits.max_entries} entries are "
                "unpacked, so put many small files into one"
            )
    for name in names:
        for end in range(1, name.count("/") + 1):
            parent = "/".join(name.split("/")[:end])
            if kinds.get(_folded(parent)) is False:
                raise refusal(parent, f"is a file and also the directory of {name!r}")
    return names


def check_total(num_bytes: int, *, limits: UnpackLimits) -> None:
    """Refuse more bytes in all than the limits allow.

    Raises:
        ArchiveError: Too many bytes.
    """
    if num_bytes > limits.max_total_bytes:
        raise ArchiveError(
            f"the files take {num_bytes} bytes unpacked; at most {limits.max_total_bytes} are "
            "unpacked, so raise that limit or drop files"
        )


def refusal(name: str, why: str) -> ArchiveError:
    """The error that names one entry, says why it is refused and what to do."""
    return ArchiveError(
        f"entry {name!r} {why}; nothing was unpacked: build the archive again without it"
    )


def _checked_parts(name: str, limits: UnpackLimits) -> list[str]:
    if not name or name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise refusal(name, "is not a relative path")
    if "\\" in name:
        raise refusal(name, "has a backslash")
    if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in name):
        raise refusal(name, "has a control character")
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise refusal(name, "has an empty, '.' or '..' part")
    if len(parts) > limits.max_depth:
        raise refusal(name, f"is {len(parts)} levels deep; at most {limits.max_depth} are unpacked")
    longest = max(len(part.encode()) for part in parts)
    if longest > limits.max_name_bytes:
        raise refusal(
            f"{name[:40]}...", f"has {longest} bytes in a part; at most {limits.max_name_bytes} fit"
        )
    return parts


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
