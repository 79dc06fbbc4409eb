"""docs/security.md says what docs/threats.toml says, and names tests that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.security_page import PAGE, page, read

ACTOR = '[actors]\nA0 = "anyone"\n'
SOUND = """
[[threat]]
number = 1
actor = "A0"
what = "Something"
then = "Nothing."
"""


def threats(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "threats.toml"
    path.write_text(ACTOR + text, encoding="utf-8")
    return path


def test_the_page_is_what_the_table_of_threats_makes_of_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(*read()), (
        "run `make security-page` and commit docs/security.md"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SOUND, "threat 1 names no test; say what is open"),
        (SOUND + 'covered = ["test_layout.py::test_nothing_of_this_name"]', "which is no test"),
        (SOUND + 'covered = ["test_nowhere.py::test_x"]', "which is no test"),
        (SOUND.replace("A0", "A9") + 'open = "all"', "names actor 'A9'"),
        (SOUND.replace("1", "2") + 'open = "all"', "not numbered from 1 on"),
    ],
)
def test_a_table_that_promises_what_nothing_shows_is_refused(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        read(threats(tmp_path, text))


def test_a_threat_shows_its_tests_as_sentences_and_what_is_open(tmp_path: Path) -> None:
    text = SOUND + 'covered = ["test_layout.py::test_the_core_does_not_know_torchserve"]\n'
    shown = page(*read(threats(tmp_path, text + 'open = "the rest"\n')))
    assert "## From anyone\n\n### 1. Something\n\nNothing.\n" in shown
    assert "- `test_layout.py: the core does not know torchserve`" in shown
    assert "*Open:* the rest." in shown
    assert "1 threats, 1 with tests that show what happens; in 1, something is open." in shown
