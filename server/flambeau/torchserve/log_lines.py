"""How TorchServe writes its logs, line by line.

    2026-01-31T12:00:00,123 [INFO ] W-9000-digits_1.0-stdout MODEL_LOG - loading
    2026-01-31T12:00:00,123 - /127.0.0.1:51234 "POST /predictions/digits HTTP/1.1" 200 12

Text from outside stays on its line, so that it cannot forge another one.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from flambeau.logging import extra_fields

ACCESS, MODEL = "flambeau.access", "flambeau.worker"
SERVER_METRICS, MODEL_METRICS = "flambeau.metrics.server", "flambeau.metrics.model"
_NAMES = {
    ACCESS: "ACCESS_LOG",
    MODEL: "MODEL_LOG",
    SERVER_METRICS: "TS_METRICS",
    MODEL_METRICS: "MODEL_METRICS",
}
_LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL"}
# everything that some terminal or some reader of lines takes for more than a letter, but the tab
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class ShortLine(logging.Formatter):
    """`<time> - <message>`, of the logs of access and metrics."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(self, record)} - {message_of(record)}"


class LongLine(logging.Formatter):
    """`<time> [<level>] <thread> <logger> - <message>`, of all others and the console."""

    def format(self, record: logging.LogRecord) -> str:
        level = _level(record)
        name = _NAMES.get(record.name, record.name)
        line = f"{_time(self, record)} [{level:<5}] {_thread(record)} {name} - {message_of(record)}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).split("\n")
            line = "\n".join([line, *(f"    {on_one_line(each)}" for each in trace)])
        return line


def message_of(record: logging.LogRecord) -> str:
    """What TorchServe would say: for a request its line, else the message and its fields."""
    fields = extra_fields(record)
    if record.name == ACCESS and "status" in fields:
        return on_one_line(_request(fields))
    message = record.getMessage()
    if record.name not in _NAMES and fields:
        message = " ".join([message, *(f"{key}={value}" for key, value in fields.items())])
    return on_one_line(message)


def on_one_line(text: str) -> str:
    r"""The text with what would end its line, or move a cursor, spelt out as `\n` is."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def _request(fields: dict[str, Any]) -> str:
    client = f"/{fields.get('client', '')}:{fields.get('client_port', 0)}"
    request = f"{fields.get('method')} {fields.get('path')} HTTP/{fields.get('http_version')}"
    return f'{client} "{request}" {fields["status"]} {round(fields.get("duration_ms", 0))}'


def _level(record: logging.LogRecord) -> str:
    """TorchServe's level: all requests are INFO, and what goes to stderr is WARN."""
    if record.name == ACCESS:
        return "INFO"
    if record.name == MODEL and vars(record).get("stream") == "stderr":
        return "WARN"
    return _LEVELS.get(record.levelname, record.levelname)


def _thread(record: logging.LogRecord) -> str:
    """A worker's name and stream, as TorchServe names the threads that read them."""
    fields = vars(record)
    if record.name != MODEL or "worker" not in fields:
        return "main" if record.threadName == "MainThread" else str(record.threadName)
    worker = f"W-{fields['worker']}-{fields.get('model')}_{fields.get('version')}"
    return on_one_line(f"{worker}-{fields.get('stream')}")


def _time(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Local time to the millisecond, with log4j's comma."""
    return f"{formatter.formatTime(record, '%Y-%m-%dT%H:%M:%S')},{int(record.msecs):03d}"
