"""Where Flambeau's own files are: the built-in handlers, and what is remembered between starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import flambeau


def builtin_dir() -> Path:
    """Where the built-in handlers are: in the installed package, or beside it in a checkout."""
    package = Path(flambeau.__file__).parent
    installed = package / "_handlers"
    return installed if installed.is_dir() else package.parents[1] / "handlers"


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CACHE_HOME/flambeau/optimizing`, by default in `~/.cache`."""
    root = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "flambeau" / "optimizing"


def library_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where compiled models are; not among the choices, where fenced workers may write."""
    return cache_directory(environment).with_name("compiled")
