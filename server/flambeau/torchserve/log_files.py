"""TorchServe's log files and its console, behind threads that do the writing.

access_log.log   one line per request             model_log.log      what workers print
ts_log.log       all that the console shows        *_metrics.log      one line per metric
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import shutil
import time
from collections.abc import Callable, Generator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from flambeau.background_log import BackgroundHandler
from flambeau.torchserve.log_lines import (
    ACCESS,
    MODEL,
    MODEL_METRICS,
    SERVER_METRICS,
    LongLine,
    ShortLine,
)
from flambeau.torchserve.places import Places

CONSOLE = "flambeau.torchserve.console"
"""The logger of lines that go to the console as they are, and nowhere else."""

_MAX_BYTES = 100 * 1024 * 1024
_NUM_KEPT = 5


@contextlib.contextmanager
def torchserve_logs(places: Places, *, level: str, console: int = 1) -> Generator[None]:
    """Send every record of this process to the files and the console, until the end of the block.

    Where the directory cannot be written, the console is all there is.

    Args:
        places: The directories; created where they are missing.
        level: The least level of records.
        console: The console's file descriptor; stdout's unless told otherwise.
    """
    shown = BackgroundHandler([_Console(console)])
    try:
        handlers = [shown, BackgroundHandler(_files(places))]
        trouble = None
    except OSError as error:
        handlers, trouble = [shown], error
    logging.basicConfig(level=level, handlers=handlers, force=True)
    logging.getLogger("uvicorn.error").setLevel("WARNING")  # our own lines tell the server's life
    logging.getLogger(ACCESS).setLevel("DEBUG")  # TorchServe logs probes, too
    if trouble is not None:
        logging.getLogger(__name__).warning("there are no log files: %s", trouble)
    try:
        yield
    finally:
        for handler in handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()


def _files(places: Places) -> list[logging.Handler]:
    places.logs.mkdir(parents=True, exist_ok=True)
    places.metrics.mkdir(parents=True, exist_ok=True)
    return [
        _file(places.logs / "access_log.log", ShortLine(), lambda name: name == ACCESS),
        _file(places.logs / "model_log.log", LongLine(), lambda name: name == MODEL),
        _file(places.logs / "ts_log.log", LongLine(), lambda name: name != CONSOLE),
        _file(places.metrics / "ts_metrics.log", ShortLine(), lambda name: name == SERVER_METRICS),
        _file(
            places.metrics / "model_metrics.log", ShortLine(), lambda name: name == MODEL_METRICS
        ),
    ]


def _file(path: Path, line: logging.Formatter, wanted: Callable[[str], bool]) -> logging.Handler:
    handler = DailyFile(path)
    handler.setFormatter(line)
    handler.addFilter(lambda record: wanted(record.name))
    return handler


class _ConsoleLine(LongLine):
    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.name == CONSOLE else super().format(record)


class _Console(logging.Handler):
    """Writes to a file descriptor without Python's buffers, whose locks outlive a write that hangs.

    Falls silent when nobody reads, as happens to a server whose terminal has gone.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.setFormatter(_ConsoleLine())

    def createLock(self) -> None:  # noqa: N802  # logging's name
        self.lock = None  # one thread writes, and another one must be able to end the process

    def emit(self, record: logging.LogRecord) -> None:
        rest = f"{self.format(record)}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


class DailyFile(RotatingFileHandler):
    """A file that is put aside, compressed, at 100 MB or midnight; five are kept."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = _MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Append to `path`.

        Args:
            path: The file; those put aside are `<path>.1.gz` (the latest) to `<path>.5.gz`.
            max_bytes: Size at which it is put aside.
            clock: Seconds since the epoch.

        Raises:
            OSError: It cannot be written.
        """
        written_at = path.stat().st_mtime if path.exists() else clock()
        super().__init__(
            path,
            maxBytes=max_bytes,
            backupCount=_NUM_KEPT,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._clock = clock
        self._day = _day(written_at)
        self.namer = "{}.gz".format
        self.rotator = _compress

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """A disk that is full costs lines, and no traceback on stderr for each of them."""

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what was not written cannot be written now
            super().close()

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802  # logging's name
        if not Path(self.baseFilename).is_file():  # a link to /dev/stdout, say
            return False
        return _day(self._clock()) != self._day or bool(super().shouldRollover(record))

    def doRollover(self) -> None:  # noqa: N802  # logging's name
        super().doRollover()
        self._day = _day(self._clock())


def _day(at: float) -> tuple[int, ...]:
    return time.localtime(at)[:3]


def _compress(source: str, target: str) -> None:
    with Path(source).open("rb") as plain, gzip.open(target, "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed)
    Path(source).unlink()
