"""`MAR-INF/parity.json`: what an export has proved, of which files; read without torch.

`exporting/proof.py` writes it. Its digests are those of the samples and of every program, so an
archive in which one of them was exchanged is refused when it is unpacked, before anything of it
runs. The numbers are checked again by each worker (`self_check.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flambeau.archive_programs import read_programs
from flambeau.errors import ArchiveError
from flambeau.signature import PARITY_PATH, PROGRAMS_PATH, SAMPLES_PATH
from flambeau.unpacked_tree import measured, pieces_of_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flambeau.file_digests import FileDigest

_TOLERANCES = ("atol", "rtol", "share", "top1")
_NEEDED = _TOLERANCES[:2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What the server needs of it.

    Attributes:
        tolerance: What the served program was held to: `atol`, `rtol`, perhaps `share` and `top1`.
        digests: SHA-256 of the files that were compared, by name.
    """

    tolerance: Mapping[str, float]
    digests: Mapping[str, str]


def read_certificate(model_dir: Path) -> Certificate | None:
    """The certificate of an unpacked archive; None when it brings none.

    Raises:
        ArchiveError: It is none.
    """
    path = model_dir / PARITY_PATH
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_bytes())
        return Certificate(tolerance=_tolerance(document["tolerance"]), digests=_digests(document))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(
            f"{PARITY_PATH} is no certificate ({type(error).__name__}: {error}); "
            "export the model again"
        ) from error


def check_certificate(model_dir: Path, *, listed: Mapping[str, FileDigest] | None = None) -> None:
    """Hold what the certificate and the list of programs say against the files beside them.

    Args:
        model_dir: The unpacked archive, which may have neither.
        listed: Digests of its files that are known already; None reads the files.

    Raises:
        ArchiveError: A file is not the one that was compared, or is missing.
    """
    certificate = read_certificate(model_dir)
    stated = {} if certificate is None else {PARITY_PATH: certificate.digests}
    programs = {each.file: each.sha256 for each in read_programs(model_dir)}
    for where, digests in {**stated, PROGRAMS_PATH: programs}.items():
        for name, expected in digests.items():
            _check_name(name, where)
            found = _digest(model_dir / name, None if listed is None else listed.get(name))
            if found != expected:
                raise ArchiveError(
                    f"{where} is about another {name}: it says SHA-256 {expected}, and "
                    f"{f'the file has {found}' if found else 'there is none'}; it was exchanged "
                    "after the export, so export the model again"
                )


def _tolerance(stated: Mapping[str, Any]) -> dict[str, float]:
    found = {name: float(stated[name]) for name in _TOLERANCES if name in stated}
    if missing := [name for name in _NEEDED if name not in found]:
        raise KeyError(*missing)
    if not all(0 <= value < float("inf") for value in found.values()):
        raise ValueError(f"tolerance {found}")
    return found


def _digests(document: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    if "samples_sha256" in document:
        found[SAMPLES_PATH] = str(document["samples_sha256"])
    for program in document.get("programs", ()):
        found[str(program["file"])] = str(program["sha256"])
    return found


def _check_name(name: str, where: str) -> None:
    if name != SAMPLES_PATH and ("/" in name or name.startswith(".")):
        raise ArchiveError(f"{where} names {name!r}, which is no file at the archive's top")


def _digest(path: Path, known: FileDigest | None) -> str:
    if known is not None:
        return known.sha256
    return measured(pieces_of_file(path)).digest.sha256 if path.is_file() else ""
