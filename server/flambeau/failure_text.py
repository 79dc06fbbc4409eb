"""Foreign text made fit for a message: bounded, valid Unicode, whatever it was before.

The text of exceptions, status phrases and headers comes from model authors, and may quote clients.
"""

from __future__ import annotations

import contextlib
import traceback
from typing import Final

MAX_CHARS: Final = 4_000  # far below the room that a frame leaves beside the answers


def sendable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot hold, cut to `MAX_CHARS`."""
    if len(text) > MAX_CHARS:
        text = f"{text[:MAX_CHARS]}... ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def text_of(error: BaseException) -> str:
    """What an exception says; its class when saying it fails."""
    try:
        return sendable(str(error))
    except Exception:  # noqa: BLE001  # `__str__` is the author's code too
        return type(error).__name__


def print_traceback() -> None:
    """Print the exception being handled, unless the handler closed or replaced stderr."""
    with contextlib.suppress(Exception):  # nowhere is left to say so
        traceback.print_exc()
