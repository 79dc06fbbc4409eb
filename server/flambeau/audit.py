"""Who changed what is served, or was refused: one record for each such management call.

Records go to the logger `flambeau.audit`, and so into the server's log; `audit_log` has them in a
file of their own as well. Keys are named by the first digits of their digest, never shown.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from flambeau.errors import ConfigError
from flambeau.logging import JsonFormatter

_log = logging.getLogger("flambeau.audit")

_MAX_ARGUMENT_CHARS = 512


def note(
    call: str,
    status: int,
    *,
    who: str,
    client: tuple[str, int] | None,
    request_id: str,
    listener: str,
    arguments: Mapping[str, object],
    outcome: str = "",
    certificate: str = "",
) -> None:
    """Record one call.

    Args:
        call: What was asked for: method and path, or the gRPC method.
        status: Its HTTP or gRPC status.
        who: What the caller showed, e.g. `management key 1f0c9a2b`.
        client: The other end's address and port, where it has such.
        request_id: The call's id, as in the access log.
        listener: Where it came in, e.g. `management`.
        arguments: What it was given; addresses lose their queries, which may hold signatures.
        outcome: How a deployment ended, which its status does not tell.
        certificate: Whom the client's certificate is for, where it had to show one.
    """
    host, port = client or ("", 0)
    _log.info(
        "%s %s",
        call,
        status,
        extra={
            "call": call,
            "status": status,
            "who": who,
            "client": host,
            "client_port": port,
            "request_id": request_id,
            "listener": listener,
            "arguments": {name: _shown(value) for name, value in arguments.items()},
            **({"outcome": outcome} if outcome else {}),
            **({"certificate": _shown(certificate)} if certificate else {}),
        },
    )


@contextmanager
def audit_file(path: Path | None) -> Generator[None]:
    """Append records to a file as well, for as long as the block lasts; None names no file.

    The file may be moved away while the server runs; the next record makes another.

    Raises:
        ConfigError: It cannot be written.
    """
    if path is None:
        yield
        return
    try:
        handler = _PrivateFile(path, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"audit_log {path} cannot be written: {error.strerror or error}; name a place that the "
            "server may write to"
        ) from error
    handler.setFormatter(JsonFormatter())
    level = _log.level
    _log.setLevel(logging.INFO)  # whatever else is not logged
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        handler.close()


class _PrivateFile(logging.handlers.WatchedFileHandler):
    """A file that only its owner can read, opened again when somebody has moved it."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        return os.fdopen(os.open(self.baseFilename, flags, 0o600), "a", encoding=self.encoding)


def _shown(value: object) -> str:
    text = str(value)
    if "://" in text:
        text = text.partition("?")[0]
    return text[:_MAX_ARGUMENT_CHARS]
