"""Every file of the corpus, and what comes of changing them, is refused as documented or read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds

FILES = [(target, path) for target in TARGETS for path in seeds(target)]
# numbers that lengths and offsets are made of, and what ends and begins things
INTERESTING = (
    *(b"", b"\0", b"\xff", b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f", b"\x80"),
    *(b"\r\n", b"--", b"/", b"..", b"PK\x05\x06", b"PK\x01\x02", b"=", b";", b'"'),
)


@st.composite
def changed(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """One of the contents with up to five changes."""
    data = draw(st.sampled_from(contents))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 2, 4, 8, 64, 1 << 20])))
        piece = draw(
            st.sampled_from(INTERESTING) | st.binary(max_size=8) | st.just(data[start:end] * 2)
        )
        data = data[:start] + piece + data[end:]
    return data


@pytest.mark.parametrize(("target", "path"), FILES, ids=[f"{t}-{p.name}" for t, p in FILES])
def test_a_file_of_the_corpus_does_no_harm(target: str, path: Path) -> None:
    TARGETS[target](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_corpus_holds_what_is_accepted_and_what_is_refused(target: str) -> None:
    outcomes = [TARGETS[target](path.read_bytes()) for path in seeds(target)]
    assert {True, False} == set(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_changed_file_of_the_corpus_does_no_harm(target: str) -> None:
    contents = [path.read_bytes() for path in seeds(target)]

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(data=changed(contents) | st.binary(max_size=200))
    def fuzz(data: bytes) -> None:
        TARGETS[target](data)

    fuzz()
