"""Write `docs/security.md` from `docs/threats.toml`: what may happen, and the tests that show it.

    python -m deploy.security_page

Every test it names must exist, as a function, a class or a state machine's `TestX` of that file.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
THREATS = ROOT / "docs" / "threats.toml"
PAGE = ROOT / "docs" / "security.md"
_HEAD = """\
# Security

What can go wrong by malice or by nature, what the server does then, and the tests that show it.
What is *open* is not promised. `make security-page` writes this page from `threats.toml`.

`make secure` looks for known vulnerabilities of the pinned packages, runs bandit, and holds all
shipped code against the rules of `tests/test_safety.py`. `tests/corpora` has requests, JSON, names,
addresses and archives as an attacker would send them; `make faults` hurts a running server in every
way we know (see [Reliability](reliability.md)). What is left for an operator to decide is in
[Operations](operations.md#what-to-trust).

A handler is code that you run. Its process is kept apart from others as far as `isolation` says,
which is no fence against an author who means harm.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Threat:
    """One row of the table.

    Attributes:
        number: Its name in discussions.
        actor: Who brings it about; a key of `[actors]`.
        what: What happens.
        then: What the server does.
        covered: The tests that show it, `FILE::NAME` below tests/.
        open: What no test shows, and why; empty when all is shown.
    """

    number: int
    actor: str
    what: str
    then: str
    covered: tuple[str, ...] = ()
    open: str = ""


def read(path: Path = THREATS) -> tuple[dict[str, str], list[Threat]]:
    """The actors, and the threats by number.

    Raises:
        ValueError: A threat names a test or an actor that does not exist, or neither tests nor what
            is open, or the numbers have a gap.
    """
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    actors: dict[str, str] = document["actors"]
    threats = [_threat(row) for row in document["threat"]]
    if [threat.number for threat in threats] != list(range(1, len(threats) + 1)):
        raise ValueError(f"{path.name}: threats are not numbered from 1 on; number them in order")
    for threat in threats:
        where = f"{path.name}: threat {threat.number}"
        if threat.actor not in actors:
            raise ValueError(f"{where} names actor {threat.actor!r}; use one of {sorted(actors)}")
        if not threat.covered and not threat.open:
            raise ValueError(f"{where} names no test; say what is open")
        for name in threat.covered:
            file, _, test = name.partition("::")
            if test not in _tests_of(ROOT / "tests" / file):
                raise ValueError(f"{where} names {name}, which is no test; name one that is")
    return actors, threats


def _threat(row: Mapping[str, Any]) -> Threat:
    values: dict[str, Any] = {**row, "covered": tuple(row.get("covered", ()))}
    return Threat(**values)


@cache
def _tests_of(path: Path) -> frozenset[str]:
    """Names that pytest collects from a file; empty when there is none."""
    if not path.is_file():
        return frozenset()
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(name for name in names if name.startswith(("test_", "Test")))


def page(actors: dict[str, str], threats: list[Threat]) -> str:
    """The page's text."""
    num_open = sum(bool(threat.open) for threat in threats)
    num_tested = sum(bool(threat.covered) for threat in threats)
    counts = f"{num_tested} with tests that show what happens; in {num_open}, something is open."
    lines = [_HEAD, f"{len(threats)} threats, {counts}"]
    for actor, who in actors.items():
        lines += ["", f"## From {who}"]
        for threat in threats:
            if threat.actor == actor:
                lines += ["", f"### {threat.number}. {threat.what}", "", threat.then]
                if threat.covered:
                    lines += ["", *(f"- `{_short(name)}`" for name in threat.covered)]
                if threat.open:
                    lines += ["", f"*Open:* {threat.open}."]
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    """`server/test_wire.py::test_garbage` as people read it: the file, and the sentence."""
    file, _, test = name.partition("::")
    return f"{file}: {test.removeprefix('test_').replace('_', ' ')}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(*read()), encoding="utf-8")


if __name__ == "__main__":
    main()
