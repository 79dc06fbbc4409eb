"""Requirements installed by the real pip, from wheels in the archive itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from flambeau.errors import RequirementsFailed
from flambeau.requirements import PipOptions, install_requirements


def make_wheel(directory: Path, *, name: str, version: str, requires: str = "") -> None:
    """A package `name` whose only module tells its version."""
    directory.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    content = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    content[record] = "".join(f"{path},,\n" for path in (*content, record))
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in content.items():
            wheel.writestr(path, text)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """An unpacked archive that brings its wheels, and files named like modules of pip's."""
    directory = tmp_path / "model"
    directory.mkdir()
    make_wheel(directory / "wheels", name="flambeau_example", version="2.1")
    (directory / "requirements.txt").write_text(
        "--no-index\n--find-links ./wheels\nflambeau_example\n"
    )
    for name in ("json.py", "pip.py", "venv.py"):
        (directory / name).write_text("raise RuntimeError('not mine to run')\n")
    return directory


def install(
    directory: Path, *, use_venv: bool = False, options: PipOptions | None = None
) -> Path | None:
    return install_requirements(
        directory,
        "requirements.txt",
        model="digits",
        use_venv=use_venv,
        stopping=threading.Event(),
        options=options or PipOptions(),
    )


def run(python: str | Path, program: str, *, directory: Path) -> str:
    done = subprocess.run(
        [str(python), "-c", program], cwd=directory, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_packages_are_installed_beside_the_archives_files(model_dir: Path) -> None:
    assert install(model_dir) is None
    assert (model_dir / "flambeau_example.py").read_text() == "VERSION = '2.1'\n"


@pytest.mark.slow
def test_a_virtual_environment_has_its_own_packages_and_the_servers(
    model_dir: Path, tmp_path: Path
) -> None:
    python = install(model_dir, use_venv=True)
    assert python is not None
    assert python == model_dir / "venv" / "bin" / "python"
    program = (
        "import sys, flambeau, flambeau_example, msgspec, model_archiver; "
        "print(flambeau_example.__file__, flambeau.__file__, sys.prefix)"
    )
    example, ours, prefix = run(python, program, directory=tmp_path).split()
    assert Path(example).is_relative_to(model_dir / "venv")
    assert ours == run(
        sys.executable, "import flambeau; print(flambeau.__file__)", directory=tmp_path
    )
    assert prefix == str(model_dir / "venv")
    assert not (model_dir / "flambeau_example.py").exists()


@pytest.mark.slow
def test_a_newer_package_in_a_virtual_environment_hides_the_servers(
    model_dir: Path, tmp_path: Path
) -> None:
    make_wheel(model_dir / "wheels", name="msgspec", version="99.0")
    (model_dir / "requirements.txt").write_text("--no-index\n--find-links ./wheels\nmsgspec>=99\n")
    python = install(model_dir, use_venv=True)
    assert python is not None
    program = "import msgspec; print(msgspec.VERSION)"
    assert run(python, program, directory=tmp_path) == "99.0"
    there = "import msgspec; print(msgspec.__version__)"
    assert run(sys.executable, there, directory=tmp_path) != "99.0"


@pytest.mark.slow
@pytest.mark.parametrize("use_venv", [False, True])
def test_what_cannot_be_installed_says_why(*, use_venv: bool, model_dir: Path) -> None:
    (model_dir / "requirements.txt").write_text("--no-index\nnowhere-to-be-found\n")
    with pytest.raises(RequirementsFailed) as caught:
        install(model_dir, use_venv=use_venv)
    first, *rest = str(caught.value).splitlines()
    assert first == "Custom pip package installation failed for model digits"
    assert "nowhere-to-be-found" in "\n".join(rest)


def test_a_virtual_environment_that_cannot_be_made_says_why(model_dir: Path) -> None:
    (model_dir / "venv").write_text("in the way")
    with pytest.raises(RequirementsFailed) as caught:
        install(model_dir, use_venv=True)
    first, *rest = str(caught.value).splitlines()
    assert first == "Virtual environment creation failed for model digits"
    assert rest


def test_stopping_ends_an_installation(model_dir: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(RequirementsFailed, match="the server is stopping"):
        install_requirements(
            model_dir, "requirements.txt", model="digits", use_venv=False, stopping=stopping
        )


# what the server's owner asks of them


@pytest.mark.slow
def test_packages_come_from_the_directory_that_is_given_and_by_their_hash(
    model_dir: Path, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "mine", name="flambeau_example", version="3.0")
    options = PipOptions(find_links=tmp_path / "mine", require_hashes=True)
    requirements = model_dir / "requirements.txt"
    requirements.write_text("flambeau_example==3.0\n")
    with pytest.raises(RequirementsFailed, match="Hashes are required"):
        install(model_dir, options=options)
    (wheel,) = (tmp_path / "mine").iterdir()
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(
        "# pinned\n\nflambeau_example==3.0 ; python_version > '3' \\\n"
        f"    --hash=sha256:{sha256}  # ours\n"
    )
    install(model_dir, options=options)
    assert "VERSION = '3.0'" in (model_dir / "flambeau_example.py").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://elsewhere.test/simple",
        "-r other.txt",
        "-e .",
        "example @ file:///tmp/example.whl",
        "https://elsewhere.test/example.whl",
        "git+ssh://elsewhere.test/example",
        "./wheels/flambeau_example-2.1-py3-none-any.whl",
        "flambeau_example-2.1-py3-none-any.whl",
        "${ADDRESS}",
        "--extra-index-url \\\n https://elsewhere.test",
    ],
)
def test_a_line_that_leads_elsewhere_is_refused(line: str, model_dir: Path) -> None:
    (model_dir / "requirements.txt").write_text(f"flambeau_example\n{line}\n")
    with pytest.raises(RequirementsFailed, match="takes packages by name only"):
        install(model_dir, options=PipOptions(find_links=model_dir / "wheels"))


def test_an_installation_ends_in_time(model_dir: Path) -> None:
    with pytest.raises(RequirementsFailed, match=r"more than 0\.001 s; raise"):
        install(model_dir, options=PipOptions(timeout_s=0.001))
