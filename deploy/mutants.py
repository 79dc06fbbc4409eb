"""Change the code that must not be wrong, a little at a time, and see whether its tests notice.

    python -m deploy.mutants            # every module of the table below
    python -m deploy.mutants tokens     # some

Each module is mutated by mutmut in a directory of its own, beside a copy of the package, and only
that module's own unit tests are run: what the whole suite would notice by chance does not count.
mutmut knows packages in `src/` only, hence the copy. Scores are written to docs/mutants.md, one row
per module; rows of modules that were not asked for stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mutants.md"
# module below server/flambeau -> its tests below tests/server
TESTS: Mapping[str, tuple[str, ...]] = {
    "api/auth": ("api/test_auth.py", "api/test_auth_records.py"),
    "tokens": ("test_tokens.py",),
    "key_file": ("test_key_file.py",),
    "wire": ("test_wire.py",),
    "batch_queue": ("test_batch_queue.py",),
    "priority_queue": ("test_priority_queue.py",),
    "state": ("test_state_content.py", "test_state_commit.py", "test_state.py"),
    "state_recovery": ("test_state_rebuild.py", "test_state_recovery.py"),
    "archive": ("test_archive_bytes.py", "test_archive.py"),
    "zip_entries": ("test_zip_entries.py", "test_archive.py"),
    "tar_entries": ("test_tar_entries.py",),
    "unpack_limits": ("test_unpack_limits.py",),
    "archive_signing": ("test_archive_signing.py",),
    "signing": ("test_signing.py",),
}
# of state files: tests that fail or kill every step in turn take a minute, for each mutant
_QUICK = ("-k", "not killed and not test_a_step_that_fails")
# mutmut's exit codes: what a mutant's tests came to
_SURVIVED = {0}
_UNTESTED = {5, 33}
_UNDECIDED = {2, None}  # interrupted or not run
# lines of messages: tests hold what they say, not each of their words
_WORDS = r'^\s+f?"'
_HEAD = """\
# Mutants

How many small changes of the code that must not be wrong are noticed by the unit tests of that
module alone, and how many of its branches they take. Written by `make mutants`, which takes minutes
per module: run it anew for a module that has changed. The aims are 80 % and 95 %. Lines that are
words of messages are not changed. Tests that fail or kill every step of a commit in turn are left
out, as they take a minute for each change.

| module | branches | mutants | noticed | survived | not reached | score |
|---|---:|---:|---:|---:|---:|---:|
"""
_FOOT = """
The run prints each change that survived. Some alter nothing that could be observed, such as the
letters of an SQL keyword or `strict=` of two lists that are equally long.
"""
_ROW = re.compile(r"^\| `(?P<module>[\w/]+)\.py` \|.*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What became of one module's mutants.

    Attributes:
        module: Its path below server/flambeau, without `.py`.
        branches: Share of its branches that its tests take, 0 to 1.
        survived: Names of mutants that no test noticed.
        num_untested: Mutants that no test reaches.
        num_noticed: All others.
    """

    module: str
    branches: float
    survived: tuple[str, ...]
    num_untested: int
    num_noticed: int

    @classmethod
    def of(cls, module: str, exit_codes: Mapping[str, int | None], *, branches: float) -> Score:
        """Read mutmut's exit codes by mutant.

        Raises:
            ValueError: Some mutants were not run, so there is no score.
        """
        undecided = [name for name, code in exit_codes.items() if code in _UNDECIDED]
        if undecided or not exit_codes:
            raise ValueError(f"{module}: {len(undecided)} mutants were not run; run it again")
        survived = tuple(name for name, code in exit_codes.items() if code in _SURVIVED)
        untested = sum(code in _UNTESTED for code in exit_codes.values())
        return cls(
            module=module,
            branches=branches,
            survived=survived,
            num_untested=untested,
            num_noticed=len(exit_codes) - len(survived) - untested,
        )

    @property
    def num_mutants(self) -> int:
        return self.num_noticed + len(self.survived) + self.num_untested

    def row(self) -> str:
        """Its line of the table; percentages are rounded down."""
        return (
            f"| `{self.module}.py` | {int(100 * self.branches)} % | {self.num_mutants} | "
            f"{self.num_noticed} | {len(self.survived)} | {self.num_untested} | "
            f"{100 * self.num_noticed // self.num_mutants} % |"
        )


def files_of(module: str) -> list[str]:
    """The module's test files, from the root."""
    return [f"tests/server/{name}" for name in TESTS[module]]


def measure(module: str, *, num_processes: int) -> Score:
    """Mutate one module, and print what survived; minutes.

    Raises:
        ValueError: Its tests fail without a change, or mutmut did not get to the end.
    """
    with tempfile.TemporaryDirectory(prefix="flambeau-mutants-") as name:
        project = Path(name)
        branches = _branches(module, project)
        _lay_out(project, module)
        mutants = project / "mutants"
        # programs that tests start import the mutated package, too
        (mutants / "src").mkdir(parents=True)
        environment = {**os.environ, "PYTHONPATH": f"{mutants / 'src'}:{mutants}"}
        command = [sys.executable, "-m", "mutmut"]
        done = subprocess.run(
            [*command, "run", "--max-children", str(num_processes)],
            cwd=project,
            env=environment,
            capture_output=True,
            check=False,
        )
        results = mutants / "src" / "flambeau" / f"{module}.py.meta"
        if not results.is_file() or done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise ValueError(f"{module}: mutmut failed: {said[-3000:]}")
        codes = json.loads(results.read_text(encoding="utf-8"))["exit_code_by_key"]
        score = Score.of(module, codes, branches=branches)
        for mutant in score.survived:
            subprocess.run([*command, "show", mutant], cwd=project, check=False)
    return score


def _branches(module: str, scratch: Path) -> float:
    """Share of the module's branches that its tests take.

    Raises:
        ValueError: The tests fail as it is.
    """
    report = scratch / "coverage.json"
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    command += ["--cov", f"--cov-report=json:{report}", *files_of(module), *_QUICK]
    environment = {**os.environ, "COVERAGE_FILE": str(scratch / "coverage")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{module}: its tests fail: {done.stdout[-3000:]}{done.stderr[-1000:]}")
    files = json.loads(report.read_text(encoding="utf-8"))["files"]
    found = files[f"server/flambeau/{module}.py"]["summary"]
    return float(found["covered_branches"] / found["num_branches"])


def _lay_out(project: Path, module: str) -> None:
    """A project that mutmut understands: the package in `src/`, and the tests where they were."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "server" / "flambeau", project / "src" / "flambeau", ignore=ignored)
    shutil.copytree(ROOT / "tests", project / "tests", ignore=ignored)
    lines = [
        "[tool.mutmut]",
        'source_paths = ["src"]',
        f'only_mutate = ["src/flambeau/{module}.py"]',
        f"do_not_mutate_patterns = ['{_WORDS}']",
        f"pytest_add_cli_args_test_selection = {json.dumps([*files_of(module), *_QUICK])}",
        'also_copy = ["tests"]',
        "track_dependencies = false",
        "timeout_multiplier = 4.0",
        "[tool.pytest.ini_options]",
        'addopts = ["--import-mode=importlib", "-p", "no:cacheprovider"]',
        'markers = ["slow: takes longer than 0.25 s"]',
        "timeout = 60",
    ]
    (project / "pyproject.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def page(rows: Mapping[str, str]) -> str:
    """The page with these rows, in the order of the table above."""
    return _HEAD + "".join(f"{rows[module]}\n" for module in TESTS if module in rows) + _FOOT


def read_rows(text: str) -> dict[str, str]:
    """The rows of a page by module."""
    return {match["module"]: match[0] for match in _ROW.finditer(text)}


def main() -> None:
    """Measure, and write each row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(TESTS):
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    for module in arguments.modules or TESTS:
        score = measure(module, num_processes=arguments.processes)
        sys.stdout.write(f"{score.row()}\n")
        sys.stdout.flush()
        rows = read_rows(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
        PAGE.write_text(page(rows | {module: score.row()}), encoding="utf-8")


if __name__ == "__main__":
    main()
