"""Logs as one JSON object per line on stderr, so that no text from outside can forge a record.

Call `configure` once, at start; everywhere else `logging.getLogger(__name__)` with `extra=` fields.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_MAX_FIELD_CHARS = 8192


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, then whatever `extra` held, then a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        now = time.gmtime(record.created)
        fields: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', now)}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= extra_fields(record)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        short = {
            key: value[:_MAX_FIELD_CHARS] if isinstance(value, str) else value
            for key, value in fields.items()
        }
        return json.dumps(short, default=str)


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record's `extra` held."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def configure(level: str, *, stream: TextIO | None = None) -> None:
    """Send every record of this process to `stream` (stderr), one JSON object per line."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel("WARNING")  # our own lines tell the server's life
