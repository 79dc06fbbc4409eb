"""The requests that a load is made of: given as files, or made of the samples in the archive."""

from __future__ import annotations

import json
import mimetypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from flambeau.errors import TuningError
from flambeau.signature import SIGNATURE_PATH, Signature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

_MAX_SAMPLES: Final = 32
_BYTES: Final = "application/octet-stream"
_JSON: Final = "application/json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequests:
    """Bodies that are sent in turn, at least one.

    Attributes:
        what: What they are, for people.
        bodies: At least one.
        content_types: One per body.
    """

    what: str
    bodies: tuple[bytes, ...]
    content_types: tuple[str, ...]

    @property
    def largest_bytes(self) -> int:
        """The size of the largest body."""
        return max(map(len, self.bodies))

    def as_http(self, model: str) -> list[bytes]:
        """Whole HTTP/1.1 requests for predictions of `model`."""
        path = quote(f"/predictions/{model}")
        return [
            b"".join(
                (
                    f"POST {path} HTTP/1.1\r\nhost: localhost\r\n".encode(),
                    f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode(),
                    body,
                )
            )
            for body, kind in zip(self.bodies, self.content_types, strict=True)
        ]


def requests_of_files(paths: Sequence[Path], content_type: str | None) -> SampleRequests:
    """The content of files as bodies.

    Args:
        paths: At least one.
        content_type: Of all of them; None goes by each one's name.

    Raises:
        TuningError: A file cannot be read.
    """
    try:
        bodies = tuple(path.read_bytes() for path in paths)
    except OSError as error:
        raise TuningError(f"--body {error.filename} cannot be read: {error.strerror}") from error
    kinds = [content_type or mimetypes.guess_type(path.name)[0] or _BYTES for path in paths]
    what = f"{len(bodies)} file(s) as {', '.join(sorted(set(kinds)))}"
    return SampleRequests(what=what, bodies=bodies, content_types=tuple(kinds))


def requests_of_samples(content: Path) -> list[SampleRequests]:
    """What an unpacked archive's samples may look like as requests, the shortest first.

    Which one its handler reads is for the handler to say.

    Raises:
        TuningError: The archive has no samples.
        ArchiveError: They are damaged.
    """
    # torch is imported here, so that `flambeau --help` does not wait for it
    from flambeau.parity import read_samples  # noqa: PLC0415

    samples = read_samples(content)
    if samples is None:
        raise TuningError(
            "the archive has no samples to make requests of; give a request with --body FILE and "
            "--content-type TYPE, or export the model with `flambeau export`"
        )
    names = [f"input_{place}" for place in range(len(samples.inputs))]
    signature_path = content / SIGNATURE_PATH
    has_signature = signature_path.is_file()
    if has_signature:
        signature = Signature.from_json(signature_path.read_bytes())
        names = [spec.name for spec in signature.inputs]
    rows = list(zip(*samples.inputs, strict=True))[:_MAX_SAMPLES]
    possible: list[SampleRequests] = []
    if has_signature and len(names) == 1:
        possible.append(_requests("raw numbers", [_raw(row[0]) for row in rows], _BYTES))
    possible.append(_requests("JSON", [_json(row, names) for row in rows], _JSON))
    return possible


def _requests(kind: str, bodies: Sequence[bytes], content_type: str) -> SampleRequests:
    return SampleRequests(
        what=f"the archive's {len(bodies)} samples as {kind}",
        bodies=tuple(bodies),
        content_types=(content_type,) * len(bodies),
    )


def _raw(sample: torch.Tensor) -> bytes:
    """Little-endian numbers in C order."""
    import torch  # noqa: PLC0415  # as above

    return bytes(sample.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _json(row: Sequence[torch.Tensor], names: Sequence[str]) -> bytes:
    if len(row) == 1:
        return json.dumps(row[0].tolist()).encode()
    return json.dumps(dict(zip(names, (part.tolist() for part in row), strict=True))).encode()
