"""Python files imported by path: handlers, and the model classes of eager archives."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType


def load_module(path: Path) -> ModuleType:
    """Import a Python file under its own name; under a private one if that is taken.

    A file that was imported before is not run again.

    Raises:
        Exception: Whatever running the file raises.
    """
    loaded = sys.modules.get(path.stem)
    if loaded is not None and _is_file_of(loaded, path):
        return loaded
    name = path.stem if loaded is None else f"flambeau_loaded_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles in the file look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def classes_defined_in(module: ModuleType) -> list[type]:
    """The module's own classes in the order of their definition, not those it imports."""
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__
    ]


def _is_file_of(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path.resolve()
