"""Choices by archive and machine in the user's cache, so that a restart need not measure again.

Each is a small JSON file of its own, so that workers that start together do not wait for each
other. What cannot be read or written is as good as not there.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Final

import msgspec

from flambeau.optimizing.choice import Choice
from flambeau.own_paths import cache_directory
from flambeau.written_aside import written_aside

logger = logging.getLogger(__name__)

_FORMAT: Final = "3"  # rises when candidates change their meaning


class RememberedChoice:
    """The choice for one archive, machine and set of limits."""

    def __init__(self, *facts: object, directory: Path | None = None) -> None:
        """A choice that holds where all of these facts are the same.

        Args:
            *facts: The archive's digest, the machine, the limits; what their texts say counts.
            directory: Where it is kept; `cache_directory()` if None.
        """
        key = hashlib.sha256("\0".join([_FORMAT, *map(str, facts)]).encode()).hexdigest()
        self._path = (directory or cache_directory()) / f"{key}.json"

    def read(self) -> Choice | None:
        """What was written last, or None."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Choice)
        except (OSError, ValueError):  # of msgspec, too
            return None

    def write(self, choice: Choice) -> None:
        """Keep a choice, if that can be done."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(self._path) as file:
                file.write(msgspec.json.encode(choice))
        except OSError as error:
            logger.info("the next start measures again: %s", error)
