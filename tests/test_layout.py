"""What may import what; the drawing is in docs/adr/0001-one-front-spawned-workers.md.

Read from the source with `ast`, so that a forbidden import is found before it is ever executed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "server" / "flambeau"

# Each module may import those on the layers above its own, in any line that has it, and its
# neighbours on the same layer only when a line says so.
LINES = (
    ("errors", "config", "manifest", "archive", "store"),
    ("errors", "handler", "loading", "worker"),
    ("messages", "wire", "worker"),
    ("messages", "wire", "process"),
    ("batch_queue", "batcher", "model_version", "registry", "api", "cli"),
    ("registry", "app", "cli"),
    ("errors", "disk", "written_aside", "archive"),
    (
        "model_settings",
        "desired",
        "state",
        "state_snapshot",
        "state_recovery",
        "memory",
        "registry",
    ),
    ("desired", "startup_plan", "startup", "serving"),
    ("config", "binding", "supervisor", "cli"),
)
# The front: one event loop that must not stall on a torch import or run a model author's code.
FRONT = ("batch_queue", "batcher", "process", "model_version", "registry", "app", "api", "cli")
HTTP = {"fastapi", "starlette", "uvicorn"}
WORKER_SIDE = ("handler", "loading", "worker")


def modules() -> dict[str, Path]:
    """Every module of the package by dotted name, e.g. `flambeau.api.inference`."""
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports_of(name: str) -> Iterator[str]:
    """Dotted names a module imports anywhere, in functions and under TYPE_CHECKING too.

    `from flambeau import archive` yields `flambeau.archive` when that is a module, and
    `from flambeau.archive import Archive` yields `flambeau.archive`.
    """
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} line {node.lineno}: use absolute imports"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def part_of(module: str) -> str | None:
    """`flambeau.api.inference` -> `api`; None for what is not ours."""
    names = module.split(".")
    return names[1] if names[0] == "flambeau" and len(names) > 1 else None


@cache
def reachable_from(part: str) -> frozenset[str]:
    """Parts of the package that importing this part brings in, through any number of steps."""
    seen: set[str] = set()
    waiting = [part]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        for module in MODULES:
            if part_of(module) == here:
                waiting.extend(p for p in map(part_of, imports_of(module)) if p is not None)
    return frozenset(seen - {part})


def dotted(node: ast.expr) -> str:
    """`torch.jit.load` of an attribute chain; empty when it does not start at a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("line", LINES, ids=" <- ".join)
def test_imports_point_from_right_to_left(line: tuple[str, ...]) -> None:
    for place, part in enumerate(line):
        later = set(line[place + 1 :])
        assert not reachable_from(part) & later, f"{part} must not import {later}"


def test_every_module_can_be_imported_first() -> None:
    """No two parts import each other, so the order of imports never matters."""
    parts = {p for p in map(part_of, MODULES) if p is not None}
    cycles = {(a, b) for a in parts for b in reachable_from(a) if a in reachable_from(b)}
    assert not cycles


def test_the_core_does_not_know_torchserve() -> None:
    for name in MODULES:
        if part_of(name) not in {"torchserve", None}:
            assert "torchserve" not in set(map(part_of, imports_of(name))), name


def test_the_server_imports_no_content() -> None:
    for name in MODULES:
        tops = {module.partition(".")[0] for module in imports_of(name)}
        assert not tops & {"handlers", "training", "benchmarks", "deploy", "tests"}, name


@pytest.mark.parametrize("part", WORKER_SIDE)
def test_a_worker_knows_no_http(part: str) -> None:
    for name in MODULES:
        if part_of(name) in {part, *reachable_from(part)}:
            tops = {module.partition(".")[0] for module in imports_of(name)}
            assert not tops & HTTP, name


@pytest.mark.parametrize("part", FRONT)
def test_the_front_imports_no_torch_when_it_is_imported(part: str) -> None:
    for name in MODULES:
        if part_of(name) == part:
            statements = tree_of(name).body
            tops = {
                module.partition(".")[0]
                for node in statements
                for module in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            assert "torch" not in tops, name


def test_only_torchscript_py_touches_torch_jit() -> None:
    for name, path in MODULES.items():
        if path.name == "torchscript.py":
            continue
        assert not any(m.startswith("torch.jit") for m in imports_of(name)), name
        chains = {dotted(n) for n in ast.walk(tree_of(name)) if isinstance(n, ast.Attribute)}
        assert not any(chain.startswith("torch.jit") for chain in chains), name


def test_importing_flambeau_imports_neither_torch_nor_fastapi() -> None:
    program = (
        "import sys, flambeau; print(*sorted({'torch', 'fastapi', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "server",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
