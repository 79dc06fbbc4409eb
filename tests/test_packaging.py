"""What `pip install flambeau` gives someone who has no checkout.

The wheel is built once and installed into an environment of its own, which borrows the dependencies
of this one. Nothing there may lead back to the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from benchmarks.server import serve

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """The wheel, and the programs of the environment it is installed in."""

    wheel: Path
    bin: Path

    def run(self, program: str, *arguments: str, cwd: Path) -> str:
        """What a program prints; raises AssertionError when it fails."""
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=cwd,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def environment(self) -> dict[str, str]:
        """This one without what could lead Python back to the checkout."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return kept | {"PATH": f"{self.bin}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    subprocess.run([*build, str(directory), str(ROOT)], check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    environment = directory / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True, capture_output=True)
    # A directory named in a .pth file is searched, but .pth files inside it are not read: the
    # dependencies are found, our own editable install is not.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = environment / "lib" / version / "site-packages" / "borrowed.pth"
    borrowed.write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel=wheel, bin=environment / "bin")


def test_the_checkout_cannot_be_imported_from_an_installation(
    installed: Installed, tmp_path: Path
) -> None:
    program = "import flambeau, sys; print(flambeau.__file__, *sys.path)"
    printed = installed.run("python", "-c", program, cwd=tmp_path)
    assert printed.startswith(str(installed.bin.parent))
    assert not {str(ROOT), str(ROOT / "server")} & set(printed.split())


def test_the_wheel_has_the_package_and_the_built_in_handlers(installed: Installed) -> None:
    sources = {
        f"flambeau/{path.relative_to(ROOT / 'server' / 'flambeau')}"
        for path in (ROOT / "server" / "flambeau").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    handlers = {f"flambeau/_handlers/{path.name}" for path in (ROOT / "handlers").glob("*.py")}
    assert handlers, "no built-in handlers"
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    assert sources | handlers <= names


def test_the_wheel_has_nothing_else(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"flambeau"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_wheel_carries_the_licence_and_its_types(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "flambeau/py.typed" in names


def test_the_command_line_tells_what_it_can_do(installed: Installed, tmp_path: Path) -> None:
    printed = installed.run("flambeau", "--help", cwd=tmp_path)
    for command in ("serve", "export", "archive", "models"):
        assert command in printed


def test_an_installation_exports_serves_and_answers(installed: Installed, tmp_path: Path) -> None:
    program = (
        "import flambeau, torch; flambeau.export(torch.nn.Identity(), torch.zeros(2, 3),"
        " name='echo', version='1.0', path='model_store/echo.mar', handler='base_handler')"
    )
    (tmp_path / "model_store").mkdir()
    installed.run("python", "-c", program, cwd=tmp_path)
    with serve(
        *("--model-store", "model_store", "--models", "echo=echo.mar"),
        cwd=tmp_path,
        program=installed.bin / "flambeau",
        environment=installed.environment(),
    ) as server:
        url = f"{server.inference_url}/predictions/echo"
        answer = httpx.post(url, json=[1.0, 2.0, 3.0], trust_env=False, timeout=30)
        assert (answer.status_code, answer.json()) == (200, [1.0, 2.0, 3.0])


def test_every_direct_dependency_is_pinned() -> None:
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert {"torch", "fastapi", "uvicorn", "msgspec", "pytest", "mypy", "ruff"} <= pinned


def test_the_pins_name_no_path_and_no_checkout() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or "==" in line, line
        assert not line.startswith("-e"), line
        assert "/" not in line or line.startswith("#"), line


def test_the_kubernetes_example_probes_what_the_image_exposes() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
    (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
    exposed = next(
        line.split()[1:]
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("EXPOSE")
    )
    assert {str(port["containerPort"]) for port in container["ports"]} <= set(exposed)
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
