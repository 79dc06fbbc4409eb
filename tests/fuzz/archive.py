"""Any bytes as a model archive: refused with ArchiveError, or read within its limits."""

from __future__ import annotations

import gzip
from io import BytesIO

from flambeau import tar_entries, zip_entries
from flambeau.archive_content import is_gzip
from flambeau.errors import ArchiveError
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.unpack_limits import UnpackLimits

LIMITS = UnpackLimits(max_entries=50, max_total_bytes=1 << 20)
_USTAR_AT = 257  # in a tar file's first block


def fuzz(data: bytes) -> bool:
    """Read all of an archive; True when it was accepted."""
    if data[_USTAR_AT : _USTAR_AT + 5] == b"ustar":  # else a changed byte is a broken checksum
        data = gzip.compress(data, 1)
    try:
        files = _files(BytesIO(data))
        if MANIFEST_PATH in files:
            Manifest.from_json(files[MANIFEST_PATH])
    except ArchiveError:
        return False
    assert sum(map(len, files.values())) <= LIMITS.max_total_bytes
    for name in files:
        assert not name.startswith("/")
        assert not {"", ".", ".."} & set(name.split("/"))
        assert "\\" not in name
    return True


def _files(file: BytesIO) -> dict[str, bytes]:
    if not is_gzip(file):
        return {
            entry.name: b"".join(zip_entries.inflate(file, entry))
            for entry in zip_entries.checked_entries(file, LIMITS)
            if not entry.is_dir
        }
    with tar_entries.tar_stream(file, LIMITS) as stream:
        return {
            entry.name: b"".join(tar_entries.contents(stream, entry))
            for entry in tar_entries.checked_entries(stream, LIMITS)
            if not entry.is_dir
        }
