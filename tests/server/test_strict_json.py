from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.strict_json import MAX_DEPTH, AmbiguousJSON, read_json

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(PLAIN)
def test_what_is_plain_is_read_as_everybody_reads_it(document: object) -> None:
    for ascii_only in (True, False):
        assert read_json(json.dumps(document, ensure_ascii=ascii_only).encode()) == document


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'[{"a": {"b": 1, "\\u0062": 2}}]', "'b' is given twice"),
        (b"[NaN]", "NaN is no JSON"),
        (b"[-Infinity]", "-Infinity is no JSON"),
        (b"[1e400]", "1e400 is more than a float holds"),
        (b"[" + b"9" * 5000 + b"]", "a number has 5000 digits"),
        (b"\xef\xbb\xbf[]", "a byte order mark at character 0"),
        (b'[1, "\\ud800"]', "half a character in the text at character 4"),
        (b'["\\udc00\\ud800"]', "half a character"),
        (b"[" * 65 + b"]" * 65, f"nested more than {MAX_DEPTH} deep at character 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, f"nested more than {MAX_DEPTH} deep"),
    ],
)
def test_what_readers_differ_on_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(AmbiguousJSON, match=message):
        read_json(body)


@pytest.mark.parametrize(
    "body", [b"", b"[", b'"\xff"', b'"\xed\xa0\x80"', b"[1,]", b'"\\u12"', b'"']
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"position|char"):
        read_json(body)


def test_brackets_within_a_text_are_text() -> None:
    assert read_json(b'["' + b"[" * 1000 + b'\\"]"]') == ["[" * 1000 + '"]']
    assert read_json(b"[" * 64 + b"]" * 64)


@pytest.mark.parametrize("part", [b"[", b'"', b"\\", b'"\\', b'\\"', b'{"a":', b"\\u"])
def test_time_is_in_proportion_to_length(part: bytes) -> None:
    began_at = time.process_time()
    with pytest.raises(ValueError, match=r"."):
        read_json(b'"' + part * (1_000_000 // len(part)))
    assert time.process_time() - began_at < 1  # its square would take minutes
