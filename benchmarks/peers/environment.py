"""A virtual environment per peer, so that each has the versions it wants.

They are made in `.bench-peers/` of the checkout, once for each content of the requirements file.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import venv
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CACHE: Final = ROOT / ".bench-peers"
REQUIREMENTS: Final = Path(__file__).with_name("requirements")


class EnvironmentMissingError(RuntimeError):
    """A peer cannot be installed here."""


def made_from(name: str) -> Callable[[], Path]:
    """What makes the environment of `requirements/NAME.txt`, and returns its Python."""
    return partial(_made, name)


def version_of(package: str) -> Callable[[Path], str]:
    """What asks an environment which version of a package it has."""
    return partial(_version, package)


def _made(name: str) -> Path:
    requirements = REQUIREMENTS / f"{name}.txt"
    directory = CACHE / name
    marker = directory / f"complete-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    python = directory / "bin" / "python"
    if marker.is_file():
        return python
    shutil.rmtree(directory, ignore_errors=True)  # other versions, or an attempt cut short
    venv.create(directory, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--requirement", str(requirements)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = (errors or done.stderr.splitlines() or ["pip failed"])[-1]
        raise EnvironmentMissingError(f"pip could not install {requirements.name}: {reason}")
    marker.touch()
    return python


def _version(package: str, python: Path) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([str(python), "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()
