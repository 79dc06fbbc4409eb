from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.api.parameters import Parameters
from flambeau.errors import BadParameter


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("7", 7),
        (7, 7),
        (7.0, 7),
        (" 7 ", 7),
        ("-1", -1),
        ("+3", 3),
        ("7.0", 7),
        ("7.5", 42),
        (7.5, 42),
        ("many", 42),
        ("", 42),
        ("1_000", 42),
        ("\u0667", 42),
        ("9" * 5000, 42),
        (True, 42),
        (None, 42),
        (float("nan"), 42),
        (float("inf"), 42),
    ],
)
def test_a_number_that_is_none_counts_as_not_given(value: object, number: int) -> None:
    assert Parameters({"n": value}).number("n", 42) == number


@pytest.mark.parametrize(
    ("value", "flag"),
    [("true", True), ("TRUE", True), (True, True), ("1", False), ("yes", False), (False, False)],
)
def test_a_flag_is_true_or_else_false(value: object, *, flag: bool) -> None:
    assert Parameters({"f": value}).flag("f", default=not flag) is flag
    assert Parameters({}).flag("f", default=flag) is flag


def test_a_list_or_an_object_is_no_value() -> None:
    with pytest.raises(BadParameter, match=r"url is \['a'\]; give one value"):
        Parameters({"url": ["a"]}).text("url")
    with pytest.raises(BadParameter, match=r"batch_size is \[7\]; give one value"):
        Parameters({"batch_size": [7]}).number("batch_size", 1)
    with pytest.raises(BadParameter, match=r"synchronous is {}; give one value"):
        Parameters({"synchronous": {}}).flag("synchronous", default=True)
    assert Parameters({"version": 1.5}).text("version") == "1.5"
    assert Parameters({"version": None}).text("version") is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"url": "a.mar", "batch_size": 4, "synchronous": true}',
        b"{'url': 'a.mar', 'batch_size': '4', 'synchronous': 'True'}",
        b"{url: a.mar, batch_size: 4, synchronous: true,}",
        b'\n {"url": "a.mar", "batch_size": 4.0, "synchronous": true, }',
    ],
)
def test_sloppy_json_is_understood(body: bytes) -> None:
    parameters = Parameters.from_json(body)
    assert parameters.text("url") == "a.mar"
    assert parameters.number("batch_size", 1) == 4
    assert parameters.flag("synchronous", default=False) is True


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"a":' * 100_000, "cannot be read"),
        (b"{'a': " * 2000, "cannot be read"),
        (b"{a: !!python/object/apply:os.getcwd []}", "give one value"),
        (b"{'a': 'b'" + b" " * 20_000, "cannot be read"),
        (b"{" + b"1" * 6000, "cannot be read"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        Parameters.from_json(body).text("a")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: ("{" + text).encode()))
def test_no_body_breaks_it(body: bytes) -> None:
    try:
        parameters = Parameters.from_json(body)
    except BadParameter:
        return
    assert parameters.number("missing", 5) == 5


def test_one_set_of_values_lies_over_another() -> None:
    both = Parameters({"a": 1}).over(Parameters({"a": 2, "b": 3}))
    assert (both.number("a", 0), both.number("b", 0)) == (1, 3)
