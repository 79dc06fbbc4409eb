"""The Python packages that an archive asks for, installed for its workers alone.

Either beside the archive's files, or in a virtual environment there which sees the server's
packages as well (`useVenv: true`). Both go away with the model. The texts are TorchServe's.
"""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from flambeau.errors import RequirementsFailed

_PATIENCE_S = 3600.0  # for one command
_LOOK_AGAIN_S = 0.1
_MAX_QUOTED_BYTES = 4000


def install_requirements(
    model_dir: Path,
    requirements_file: str,
    *,
    model: str,
    use_venv: bool,
    stopping: threading.Event,
) -> Path | None:
    """Install what a file of an unpacked archive lists; takes minutes, and runs pip.

    Args:
        model_dir: The unpacked archive.
        requirements_file: pip's requirements, relative to it; paths in it are relative to it too.
        model: What messages call the model.
        use_venv: Make a virtual environment, `<model_dir>/venv`.
        stopping: Set when the server stops; ends what is running.

    Returns:
        The virtual environment's interpreter; None without one.

    Raises:
        RequirementsFailed: Something could not be installed; the message ends with pip's reason.
    """
    pip = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "-U"]
    try:
        python = _make_venv(model_dir / "venv", stopping=stopping) if use_venv else None
    except _CommandFailed as error:
        raise RequirementsFailed(
            f"Virtual environment creation failed for model {model}\n{error}"
        ) from error
    where = ["-t", str(model_dir)] if python is None else ["--upgrade-strategy", "only-if-needed"]
    command = [str(python or sys.executable), "-I", *pip, *where, "-r", requirements_file]
    try:
        _run(command, directory=model_dir, stopping=stopping)
    except _CommandFailed as error:
        raise RequirementsFailed(
            f"Custom pip package installation failed for model {model}\n{error}"
        ) from error
    return python


class _CommandFailed(Exception):  # noqa: N818
    """A command ended badly; the text is what it wrote to stderr last."""


def _make_venv(directory: Path, *, stopping: threading.Event) -> Path:
    """A virtual environment that sees what this interpreter sees, pip included.

    `--system-site-packages` would show it the base interpreter's packages, not those of the
    environment the server runs in; so a `.pth` file names the server's folders.
    """
    command = [sys.executable, "-I", "-m", "venv", "--without-pip", str(directory)]
    _run(command, directory=directory.parent, stopping=stopping)
    base = {"base": str(directory), "platbase": str(directory)}
    packages = Path(sysconfig.get_path("purelib", "posix_prefix", vars=base))
    lines = [f"import site; site.addsitedir({folder!r})" for folder in _package_folders()]
    try:
        (packages / "flambeau_server.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise _CommandFailed(str(error)) from error
    return directory / "bin" / "python"


def _package_folders() -> list[str]:
    """Where this interpreter's packages are, as it looks them up."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    folders += site.getsitepackages()
    folders += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [folder for folder in dict.fromkeys(folders) if Path(folder).is_dir()]


def _run(command: Sequence[str], *, directory: Path, stopping: threading.Event) -> None:
    """Run a command to its end, or kill it with all it started."""
    environment = {key: v for key, v in os.environ.items() if not key.startswith("FLAMBEAU_")}
    ends_at = time.monotonic() + _PATIENCE_S
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise _CommandFailed(str(error)) from error
        while process.poll() is None:
            if stopping.wait(_LOOK_AGAIN_S) or time.monotonic() > ends_at:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise _CommandFailed(
                    "the server is stopping"
                    if stopping.is_set()
                    else f"it took more than {_PATIENCE_S:g} s"
                )
        if process.returncode:
            at = errors.seek(0, os.SEEK_END)
            errors.seek(max(0, at - _MAX_QUOTED_BYTES))
            raise _CommandFailed(errors.read().decode(errors="replace").strip())
