"""How `make mutants` reads the results of mutmut; a run of it takes minutes and is no test."""

from __future__ import annotations

import pytest

from deploy.mutants import PAGE, ROOT, TESTS, Score, files_of, page, read_rows

CODES: dict[str, int | None] = {"a": 1, "b": 0, "c": 33, "d": 36, "e": 1}


def test_a_score_counts_what_was_noticed_among_all_mutants() -> None:
    score = Score.of("tokens", CODES, branches=0.999)
    assert (score.num_noticed, score.survived, score.num_untested) == (3, ("b",), 1)
    assert score.row() == "| `tokens.py` | 99 % | 5 | 3 | 1 | 1 | 60 % |"


@pytest.mark.parametrize("codes", [{}, {"a": 1, "b": None}, {"a": 2}])
def test_a_run_that_did_not_end_has_no_score(codes: dict[str, int | None]) -> None:
    with pytest.raises(ValueError, match="not run"):
        Score.of("tokens", codes, branches=1.0)


def test_rows_of_other_modules_stay() -> None:
    rows = {module: Score.of(module, CODES, branches=1.0).row() for module in ("wire", "api/auth")}
    assert read_rows(page(rows)) == rows
    assert page(rows).index("api/auth") < page(rows).index("wire")


def test_the_page_speaks_of_modules_of_the_table_and_these_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(read_rows(text))
    assert read_rows(text).keys() <= TESTS.keys()
    for module in TESTS:
        assert (ROOT / "server" / "flambeau" / f"{module}.py").is_file()
        assert all((ROOT / path).is_file() for path in files_of(module))
