"""What an archive says about itself, as text for a terminal; no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flambeau.archive import digest, list_files, read_file, read_manifest
from flambeau.certificate_table import certificate_table
from flambeau.errors import ArchiveError
from flambeau.file_digests import SIGNATURES_PATH
from flambeau.manifest import MANIFEST_PATH
from flambeau.signature import (
    LINEAGE_PATH,
    PARITY_PATH,
    SIGNATURE_PATH,
    Signature,
    TensorSpec,
)
from flambeau.signing import read_signatures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def describe_archive(path: Path) -> str:
    """Manifest, signature, parity, lineage, sizes and digest.

    Raises:
        ArchiveError: No such archive, or one of these files in it is damaged.
    """
    files = list_files(path)
    lines = [str(path), f"sha256  {digest(path)}"]
    manifest = asdict(read_manifest(path))
    title = "manifest" if MANIFEST_PATH in files else f"no {MANIFEST_PATH} in it, so the defaults"
    lines += ["", title, *_indented({k: v for k, v in manifest.items() if v is not None})]
    signature = read_file(path, SIGNATURE_PATH)
    if signature is not None:
        shown = describe_signature(Signature.from_json(signature))
        lines += ["", "signature", *(f"  {line}" for line in shown)]
    parity = read_file(path, PARITY_PATH)
    if parity is not None:
        lines += ["", "parity", *(f"  {line}" for line in _parity(_object(parity, PARITY_PATH)))]
    lineage = read_file(path, LINEAGE_PATH)
    if lineage is not None:
        lines += ["", "lineage", *_indented(_object(lineage, LINEAGE_PATH))]
    signatures = read_file(path, SIGNATURES_PATH)
    if signatures is not None:
        signers = read_signatures(signatures)
        lines += ["", "signed by (verify tells whether that is so)", *(f"  {k}" for k in signers)]
    lines += ["", "files", *(f"  {size:>13,}  {_printable(name)}" for name, size in files.items())]
    lines += [f"  {sum(files.values()):>13,}  bytes in all"]
    return "\n".join(lines)


def describe_signature(signature: Signature) -> list[str]:
    """One line per input and output, e.g. `input    x float32 (batch, 1, 32, 32)`."""
    inputs = [f"input    {_tensor(spec)}" for spec in signature.inputs]
    return inputs + [f"output   {_tensor(spec)}" for spec in signature.outputs]


def _parity(document: dict[str, Any]) -> list[str]:
    """A table of programs; documents without a list of them are shown as they are."""
    try:
        return [_printable(line) for line in certificate_table(document)]
    except (KeyError, TypeError, ValueError, AttributeError):
        return [line.removeprefix("  ") for line in _indented(document)]


def _tensor(spec: TensorSpec) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in spec.sample_shape)
    shape = f"(batch, {sizes})" if sizes else "(batch,)"
    return f"{_printable(spec.name)} {_printable(spec.dtype)} {shape}"


def _indented(document: Mapping[str, Any], *, depth: int = 1) -> Iterator[str]:
    for key, value in document.items():
        label = "  " * depth + _printable(str(key))
        if isinstance(value, dict) and value:
            yield label
            yield from _indented(value, depth=depth + 1)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{label:<24} {_printable(text)}"


def _printable(text: str) -> str:
    """An archive's author must not drive the reader's terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _object(text: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{name} is not JSON ({error}); export the model again") from error
    if not isinstance(document, dict):
        raise ArchiveError(f"{name} is {type(document).__name__}, not an object; export again")
    return document
