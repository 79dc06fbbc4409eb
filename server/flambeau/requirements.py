"""The Python packages that an archive asks for, installed for its workers alone.

Either beside the archive's files, or in a virtual environment there which sees the server's
packages as well (`useVenv: true`). Both go away with the model. The texts are TorchServe's.
"""

from __future__ import annotations

import os
import re
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flambeau.errors import RequirementsFailed

# a name, then versions, a marker or hashes: no option, path, address or variable
_BY_NAME = re.compile(
    r"(?!.*\.(?:whl|zip|tar\.\w+|tgz)\s*$)[A-Za-z0-9][A-Za-z0-9._\-]*\s*(?:\[[^\]/@$]*\])?[^/@$]*$"
)
_LOOK_AGAIN_S = 0.1
_MAX_QUOTED_BYTES = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class PipOptions:
    """Where packages come from, and what is asked of them.

    Attributes:
        require_hashes: Install nothing whose hash the requirements do not give.
        find_links: The one directory that packages come from; None takes pip's index.
        timeout_s: What all of it may take.
    """

    require_hashes: bool = False
    find_links: Path | None = None
    timeout_s: float = 3600.0

    def flags(self) -> list[str]:
        """As pip spells them."""
        hashes = ["--require-hashes"] if self.require_hashes else []
        if self.find_links is None:
            return hashes
        return [*hashes, "--no-index", "--find-links", str(self.find_links.absolute())]


def install_requirements(
    model_dir: Path,
    requirements_file: str,
    *,
    model: str,
    use_venv: bool,
    stopping: threading.Event,
    options: PipOptions = PipOptions(),  # it is frozen
) -> Path | None:
    """Install what a file of an unpacked archive lists; takes minutes, and runs pip.

    Args:
        model_dir: The unpacked archive.
        requirements_file: pip's requirements, relative to it; paths in it are relative to it too.
        model: What messages call the model.
        use_venv: Make a virtual environment, `<model_dir>/venv`.
        stopping: Set when the server stops; ends what is running.
        options: Where packages come from, and what is asked of them.

    Returns:
        The virtual environment's interpreter; None without one.

    Raises:
        RequirementsFailed: Something could not be installed; the message ends with pip's reason.
    """
    pip = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "-U"]
    ends_at = time.monotonic() + options.timeout_s
    runner = _Runner(stopping, ends_at, options.timeout_s)
    if options.find_links is not None:
        _check_local(model_dir / requirements_file, model=model)
    try:
        python = _make_venv(model_dir / "venv", runner) if use_venv else None
    except _CommandFailed as error:
        raise RequirementsFailed(
            f"Virtual environment creation failed for model {model}\n{error}"
        ) from error
    where = ["-t", str(model_dir)] if python is None else ["--upgrade-strategy", "only-if-needed"]
    command = [str(python or sys.executable), "-I", *pip, *options.flags(), *where]
    try:
        runner.run([*command, "-r", requirements_file], directory=model_dir)
    except _CommandFailed as error:
        raise RequirementsFailed(
            f"Custom pip package installation failed for model {model}\n{error}"
        ) from error
    return python


class _CommandFailed(Exception):  # noqa: N818
    """A command ended badly; the text is what it wrote to stderr last."""


def _check_local(path: Path, *, model: str) -> None:
    """Refuse lines that would lead pip elsewhere: it follows addresses whatever its flags say."""
    try:
        lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequirementsFailed(
            f"Custom pip package installation failed for model {model}\n{error}"
        ) from error
    for line in map(str.strip, lines):
        text = line.partition("#")[0].strip()
        if text and not _BY_NAME.match(text):
            raise RequirementsFailed(
                f"Custom pip package installation failed for model {model}\n{path.name} has "
                f"{line!r}, and requirements_find_links takes packages by name only; put the "
                "package into that directory and write NAME==VERSION"
            )


def _make_venv(directory: Path, runner: _Runner) -> Path:
    """A virtual environment that sees what this interpreter sees, pip included.

    `--system-site-packages` would show it the base interpreter's packages, not those of the
    environment the server runs in; so a `.pth` file names the server's folders.
    """
    command = [sys.executable, "-I", "-m", "venv", "--without-pip", str(directory)]
    runner.run(command, directory=directory.parent)
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


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs commands until the server stops or the time is up."""

    stopping: threading.Event
    ends_at: float
    timeout_s: float

    def run(self, command: Sequence[str], *, directory: Path) -> None:
        """Run a command to its end, or kill it with all it started."""
        environment = {key: v for key, v in os.environ.items() if not key.startswith("FLAMBEAU_")}
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
                if self.stopping.wait(_LOOK_AGAIN_S) or time.monotonic() > self.ends_at:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    raise _CommandFailed(
                        "the server is stopping"
                        if self.stopping.is_set()
                        else f"it took more than {self.timeout_s:g} s; raise requirements_timeout_s"
                    )
            if process.returncode:
                at = errors.seek(0, os.SEEK_END)
                errors.seek(max(0, at - _MAX_QUOTED_BYTES))
                raise _CommandFailed(errors.read().decode(errors="replace").strip())
