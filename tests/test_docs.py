"""What the documentation shows is what happens: its code blocks are run, page by page.

Each page has unused ports and a directory with an empty model store and the training configs. In
order of appearance,

- `python` blocks run as scripts, each on its own;
- blocks of any language with `file=NAME` are written to that file;
- `bash` blocks run command by command and must succeed;
- `console` blocks hold `$ commands`, each followed by the output it must have; `...` stands for
  anything, and white space does not count;
- a command `flambeau serve ...` starts a server that the rest of the page talks to, and that must
  stop cleanly at its end; so does `make serve`, with a model trained for fewer epochs;
- `json`, `toml` and `yaml` blocks must parse.

`no-run` after the language exempts a block whose every command is one of `NOT_RUN`: those that
install, build images or talk to a cluster. The standard ports are replaced by the unused ones.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks import report
from benchmarks.figures import QUOTED, read
from benchmarks.server import Addresses, serve

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "model_store" / "README.md"]
)
LANGUAGES = {"bash", "console", "json", "python", "text", "toml", "yaml"}
NOT_RUN = {".venv/bin/pre-commit", "cd", "docker", "git", "kubectl", "make", "pip", "source"}
DIGITS = Path("model_store/digits-1.0.mar")
MAKE_SERVE = (
    "python -m training.train training/configs/digits_lenet.toml epochs=3 output=runs/docs",
    (
        "flambeau export --checkpoint runs/docs/checkpoints/best.pt --name digits --version 1.0 "
        f"--output {DIGITS}"
    ),
)
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        place: `README.md:12`, for messages.
        language: First word after the fence.
        run: False when tagged `no-run`.
        file: Name after `file=`, or None.
        text: What is between the fences.
    """

    place: str
    language: str
    run: bool
    file: str | None
    text: str


def blocks_of(page: Path) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    found: list[Block] = []
    for match in FENCE.finditer(source):
        language, *tags = match[2].split() or [""]
        files = [tag.removeprefix("file=") for tag in tags if tag.startswith("file=")]
        line = source.count("\n", 0, match.start()) + 1
        place = f"{page.relative_to(ROOT)}:{line}"
        unknown = {t for t in tags if t != "no-run" and not t.startswith("file=")}
        assert not unknown, f"{place}: {unknown} after the fence means nothing here"
        indent = re.compile(f"^{match[1]}", re.MULTILINE)
        found.append(
            Block(
                place=place,
                language=language,
                run="no-run" not in tags,
                file=files[0] if files else None,
                text=indent.sub("", match[3]),
            )
        )
    return found


def commands_of(block: Block) -> list[tuple[str, str]]:
    """Commands with the output that must follow each; none is given in `bash` blocks."""
    joined = re.sub(r" *\\\n *", " ", block.text)
    if block.language == "bash":
        lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
        return [(line, "") for line in lines]
    commands: list[tuple[str, str]] = []
    for line in joined.splitlines(keepends=True):
        if line.startswith("$ "):
            commands.append((line[2:].rstrip("\n"), ""))
        else:
            assert commands, f"{block.place}: begins with output instead of `$ command`"
            command, expected = commands[-1]
            commands[-1] = (command, expected + line)
    return commands


class Reader:
    """Someone who follows one page to the letter."""

    def __init__(self, *, directory: Path, stack: ExitStack) -> None:
        # for the life of the page
        self._directory = directory
        self._stack = stack
        self._addresses = Addresses.unused()
        self._environment = {
            key: value for key, value in os.environ.items() if not key.startswith("FLAMBEAU_")
        } | self._addresses.as_environment()
        self._environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment["NO_PROXY"] = "127.0.0.1"
        self._environment["XDG_STATE_HOME"] = str(directory / ".state")
        self._environment["FLAMBEAU_STATE_FILE"] = "auto"
        self._environment["TMPDIR"] = str(directory)  # where a server left behind is noted
        self._num_scripts = 0
        (directory / "model_store").mkdir()
        shutil.copytree(ROOT / "training" / "configs", directory / "training" / "configs")
        (directory / "docs").mkdir()
        shutil.copy(ROOT / "docs" / "seven.png", directory / "docs")

    def follow(self, block: Block) -> None:
        """Do what the block says; raises AssertionError when it does not happen."""
        text = self._with_our_ports(block.text)
        if block.language == "json":
            json.loads(text)
        elif block.language == "toml":
            tomllib.loads(text)
        elif block.language == "yaml":
            list(yaml.safe_load_all(text))
        if block.file is not None:
            (self._directory / block.file).write_text(text, encoding="utf-8")
        elif block.language == "python":
            self._num_scripts += 1
            script = self._directory / f"block_{self._num_scripts}.py"
            script.write_text(text, encoding="utf-8")
            self._run([sys.executable, str(script)], place=block.place)
        elif block.language in {"bash", "console"}:
            for command, expected in commands_of(block):
                self._command(self._with_our_ports(command), expected, place=block.place)

    def close(self) -> None:
        """End the server that a page which failed has left behind."""
        if (self._directory / ".model_server.pid").exists():
            self._run([sys.executable, "-m", "flambeau.torchserve", "--stop"], place="the end")

    def _command(self, command: str, expected: str, *, place: str) -> None:
        words = shlex.split(command, comments=True)
        if words == ["make", "serve"]:
            for step in MAKE_SERVE:
                self._run(["bash", "-euo", "pipefail", "-c", step], place=place)
            words = shlex.split(f"flambeau serve --models digits={DIGITS.name}")
        if words[:2] == ["flambeau", "serve"]:
            server = serve(
                *words[2:],
                cwd=self._directory,
                addresses=self._addresses,
                environment=self._environment,
            )
            self._stack.enter_context(server)
            return
        printed = self._run(["bash", "-euo", "pipefail", "-c", command], place=place)
        if expected:
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            same = doctest.OutputChecker().check_output(
                self._with_our_ports(expected), printed, options
            )
            assert same, f"{place}: $ {command}\nmust print\n{expected}\nbut printed\n{printed}"

    def _run(self, command: list[str], *, place: str) -> str:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,  # training on a busy machine
            check=False,
        )
        assert done.returncode == 0, f"{place}: {command[-1]}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _with_our_ports(self, text: str) -> str:
        ours = self._addresses
        for port, address in (
            (8080, ours.inference),
            (8081, ours.management),
            (8082, ours.metrics),
            (7070, ours.grpc_inference),
            (7071, ours.grpc_management),
        ):
            text = re.sub(rf"\b(127\.0\.0\.1|localhost):{port}\b", address, text)
        return text


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.run for b in blocks_of(page))], ids=name_of
)
def test_following_the_page_works(page: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        reader = Reader(directory=tmp_path, stack=stack)
        stack.callback(reader.close)
        for block in blocks_of(page):
            if block.run:
                reader.follow(block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_only_what_cannot_run_here_is_exempt(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.place}: name one of {sorted(LANGUAGES)}"
        if not block.run:
            assert block.language in {"bash", "console"}, block.place
            for command, _ in commands_of(block):
                words = [w for w in shlex.split(command, comments=True) if "=" not in w]
                assert words[0] in NOT_RUN, f"{block.place}: {command!r} can run"


def test_the_benchmark_page_shows_the_quoted_results() -> None:
    results = read(QUOTED) if QUOTED.exists() else None
    assert report.PAGE.read_text(encoding="utf-8") == report.render(results)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"
