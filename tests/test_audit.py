"""What `make secure` makes of pip-audit's answers."""

from __future__ import annotations

from typing import Any

from deploy.audit import Audit

SOUND: dict[str, Any] = {"name": "torch", "version": "2.13.0", "vulns": []}
SKIPPED = {"name": "uvloop", "skip_reason": "Dependency not found on PyPI"}
FOUND: dict[str, Any] = {
    "name": "starlette",
    "version": "0.9",
    "vulns": [
        {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["1.0"]},
        {"id": "PYSEC-2026-2", "fix_versions": []},
    ],
}


def test_every_vulnerability_is_named_with_its_fix() -> None:
    found = Audit.of({"dependencies": [SOUND, FOUND]}, accepted={})
    assert found.vulnerable == (
        "starlette 0.9: PYSEC-2026-1, fixed in 1.0",
        "starlette 0.9: PYSEC-2026-2, fixed in no release yet",
    )
    assert str(found).startswith("pip-audit: 2 packages checked\nstarlette 0.9")


def test_one_that_is_accepted_by_any_of_its_names_is_not() -> None:
    accepted = {"CVE-2026-1": "not reachable"}
    (left,) = Audit.of({"dependencies": [FOUND]}, accepted=accepted).vulnerable
    assert "PYSEC-2026-2" in left


def test_what_was_not_looked_up_is_never_called_sound() -> None:
    some = Audit.of({"dependencies": [SOUND, SKIPPED]}, accepted={})
    assert "1 packages NOT CHECKED" in str(some)
    none = Audit.of({"dependencies": [SKIPPED]}, accepted={})
    assert (none.num_checked, none.vulnerable) == (0, ())
    assert "NOT CHECKED" in str(none)
    assert "packages checked" not in str(none)
