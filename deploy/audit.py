"""Look up known vulnerabilities of what `constraints.txt` pins, with pip-audit.

    python -m deploy.audit

Ends with 1 when there is one that is not in `ACCEPTED`. Advisories come from the package index over
the network; where they cannot be had, this says so and ends with 0: a machine without them is no
reason to refuse a change, and says nothing about it either.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
TIMEOUT_S = 120.0  # for a hundred small answers
# advisories that we know of and live with: id -> why
ACCEPTED: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What the advisories say.

    Attributes:
        num_checked: Packages that were looked up.
        num_unknown: Packages that the service would not speak about.
        vulnerable: One line per vulnerability that is not accepted.
    """

    num_checked: int
    num_unknown: int
    vulnerable: tuple[str, ...]

    @classmethod
    def of(cls, document: dict[str, Any], *, accepted: Mapping[str, str]) -> Audit:
        """Read pip-audit's JSON; `accepted` are ids that count as none."""
        packages = document["dependencies"]
        checked = [package for package in packages if "vulns" in package]
        return cls(
            num_checked=len(checked),
            num_unknown=len(packages) - len(checked),
            vulnerable=tuple(
                f"{package['name']} {package['version']}: {found['id']}, fixed in "
                f"{', '.join(found['fix_versions']) or 'no release yet'}"
                for package in checked
                for found in package["vulns"]
                if not accepted.keys() & {found["id"], *found.get("aliases", [])}
            ),
        )

    def __str__(self) -> str:
        if not self.num_checked:
            return (
                "pip-audit: NOT CHECKED, the index has no advisories to give here; run "
                "`make secure` where pypi.org can be reached"
            )
        lines = [f"pip-audit: {self.num_checked} packages checked"]
        if self.num_unknown:
            lines.append(
                f"pip-audit: {self.num_unknown} packages NOT CHECKED, unknown to the index"
            )
        return "\n".join([*lines, *self.vulnerable])


def run_pip_audit() -> Audit:
    """Ask about every pinned package; none is checked when the service cannot be reached."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS)]
    command += ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        return Audit.of(json.loads(done.stdout), accepted=ACCEPTED)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):  # it prints nothing but its trouble
        return Audit(num_checked=0, num_unknown=0, vulnerable=())


def main() -> int:
    """Print what was found; 1 when something was."""
    audit = run_pip_audit()
    sys.stdout.write(f"{audit}\n")
    return 1 if audit.vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
