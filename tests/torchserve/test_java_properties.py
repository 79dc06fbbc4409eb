from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.torchserve.java_properties import decode, parse, render

# a lone half of a pair is no text, and no Java program writes one into a file
TEXT = st.text(alphabet=st.characters(blacklist_categories=["Cs"]))


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a=b", "a", "b"),
        ("a = b", "a", "b"),
        ("a: b", "a", "b"),
        ("a b", "a", "b"),
        ("  a\t=\f b ", "a", "b "),
        ("a", "a", ""),
        ("a=", "a", ""),
        ("a==b", "a", "=b"),
        ("a=b=c", "a", "b=c"),
        ("a=http://0.0.0.0:8080", "a", "http://0.0.0.0:8080"),
        (r"a\ b\=c=d", "a b=c", "d"),
        (r"a=C:\\models", "a", "C:\\models"),
        (r"a=one\ttwo\nthree", "a", "one\ttwo\nthree"),
        (r"a=\u00e9", "a", "é"),
        (r"a=\ud83d\udd25", "a", "🔥"),
        (r"a=\q", "a", "q"),
        ("a=b\\\n   c", "a", "bc"),
        ("a=b\\\r\n\tc", "a", "bc"),
        ("a=b\\\n#c", "a", "b#c"),
        ("a=b\\\\\nc=d", "a", "b\\"),
        ("a=b\\", "a", "b"),
        ("a=1\na=2", "a", "2"),
    ],
)
def test_a_line_is_read_as_java_reads_it(text: str, key: str, value: str) -> None:
    assert parse(text)[key] == value


@pytest.mark.parametrize("text", ["", "\n\n", "# a=b", "  ! a=b\r\n", "#a\\\n#b"])
def test_comments_and_blank_lines_say_nothing(text: str) -> None:
    assert parse(text) == {}


def test_a_comment_cannot_be_continued() -> None:
    assert parse("# note \\\na=b") == {"a": "b"}


def test_only_java_s_line_ends_end_a_line() -> None:
    assert parse("a=b\x0b\x1c\u2028c\nd=e") == {"a": "b\x0b\x1c\u2028c", "d": "e"}


@pytest.mark.parametrize("text", [r"a=\u12", r"a=\u12g4", r"a=\u", r"\uzzzz=a"])
def test_a_broken_escape_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="give four hexadecimal digits"):
        parse(text)


@given(st.dictionaries(TEXT, TEXT))
def test_what_is_rendered_is_read_back(properties: dict[str, str]) -> None:
    assert parse(render(properties)) == properties


@given(st.dictionaries(TEXT, TEXT))
def test_a_rendered_property_is_one_line_of_ascii(properties: dict[str, str]) -> None:
    text = render(properties)
    assert text.isascii()
    assert set(text) <= set(string.printable) - set("\r\x0b\x0c\t")
    assert text.count("\n") == len(properties)


@given(st.text(alphabet=" \t\f\r\n\\=:#!u0aé"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        properties = parse(text)
    except ValueError:  # a broken escape
        return
    assert parse(render(properties)) == properties


def test_files_are_utf_8_or_else_latin_1() -> None:
    assert decode("a=é".encode()) == "a=é"
    assert decode("a=é".encode("utf-8-sig")) == "a=é"
    assert decode("a=é".encode("latin-1")) == "a=é"
