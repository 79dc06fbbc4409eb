"""What Python files of an archive need, read from their source: imports and calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from sys import stdlib_module_names
from typing import Final

from flambeau.torchserve.names_path import NAMES_DIR

_OURS: Final = "ts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What source code asks for.

    Attributes:
        missing_names: Names of `ts` that are not there, e.g. `ts.model_loader`.
        packages: Top-level names of packages that it imports, the standard library left out.
        loads_pickles: Whether it calls `torch.load` without `weights_only=True`.
    """

    missing_names: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    loads_pickles: bool = False


def needs_of(source: str) -> Needs:
    """What a file needs.

    Raises:
        SyntaxError: It is not Python of this version.
    """
    tree = ast.parse(source)
    imported = list(_imports(tree))
    packages = {module.partition(".")[0] for module, _ in imported}
    return Needs(
        missing_names=sorted({_missing(*each) for each in imported} - {""}),
        packages=sorted(packages - set(stdlib_module_names) - {_OURS, "", "__future__"}),
        loads_pickles=any(_is_unsafe_load(node) for node in ast.walk(tree)),
    )


def is_installed(package: str) -> bool:
    """Whether a top-level name can be imported here; nothing is imported to find out."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _imports(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Each module with the name that is taken from it; those under `try` are the author's care."""
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def _missing(module: str, name: str | None) -> str:
    """The part of `ts` that an import needs and that is not there; empty when all is well."""
    if module.partition(".")[0] != _OURS:
        return ""
    file = _file_of(module)
    if file is None:
        return module
    if name in {None, "*"} or _file_of(f"{module}.{name}") is not None:
        return ""
    return "" if name in _names_in(file) else f"{module}.{name}"


def _file_of(module: str) -> Path | None:
    path = NAMES_DIR.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _names_in(file: Path) -> set[str]:
    """What a module defines or imports at its top."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _is_unsafe_load(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    is_load = node.func.attr == "load" and ast.unparse(node.func.value) == "torch"
    return is_load and all(keyword.arg != "weights_only" for keyword in node.keywords)
