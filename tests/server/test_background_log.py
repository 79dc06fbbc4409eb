from __future__ import annotations

import logging
import threading
from collections.abc import Generator

import pytest

from flambeau.background_log import BackgroundHandler


class Held(logging.Handler):
    """Keeps messages, and waits before each one until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.may_go_on = threading.Event()
        self.has_begun = threading.Event()
        self.is_closed = False
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        self.has_begun.set()
        assert self.may_go_on.wait(60)
        with self._changed:
            self.messages.append(record.getMessage())
            self._changed.notify_all()

    def wait_messages(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.messages) >= number, 60)

    def close(self) -> None:
        self.is_closed = True
        super().close()


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("test", level, __file__, 1, message, None, None)


@pytest.fixture
def target() -> Generator[Held]:
    held = Held()
    yield held
    held.may_go_on.set()


def test_records_are_written_in_order_before_it_closes(target: Held) -> None:
    handler = BackgroundHandler([target])
    for number in range(100):
        handler.handle(record(str(number)))
    target.may_go_on.set()
    handler.close()
    handler.close()
    assert target.messages == [str(number) for number in range(100)]
    assert target.is_closed


def test_a_target_gets_what_is_of_its_level(target: Held) -> None:
    target.setLevel("WARNING")
    target.may_go_on.set()
    handler = BackgroundHandler([target])
    handler.handle(record("quiet"))
    handler.handle(record("loud", logging.WARNING))
    handler.close()
    assert target.messages == ["loud"]


def test_what_cannot_be_written_in_time_is_dropped_and_counted(target: Held) -> None:
    handler = BackgroundHandler([target], max_waiting=4)
    handler.handle(record("first"))
    assert target.has_begun.wait(60)
    for number in range(7):
        handler.handle(record(str(number)))  # four have room
    target.may_go_on.set()
    target.wait_messages(5)
    handler.handle(record("last"))
    handler.close()
    assert target.messages == [
        *("first", "0", "1", "2", "3"),
        "3 log records were dropped: they came faster than they could be written",
        "last",
    ]
