"""Where each limit is, and which names are refused; whole archives are in `test_archive.py`."""

from __future__ import annotations

import pytest

from flambeau.errors import ArchiveError
from flambeau.unpack_limits import UnpackLimits, check_names, check_total, refusal

LIMITS = UnpackLimits()


def names(*given: str) -> list[str]:
    """What these files are called; what ends with `/` is a directory."""
    return check_names([(name, name.endswith("/")) for name in given], limits=LIMITS)


def refused(*given: str, limits: UnpackLimits = LIMITS) -> str:
    with pytest.raises(ArchiveError) as caught:
        check_names([(name, name.endswith("/")) for name in given], limits=limits)
    return str(caught.value)


def test_names_come_back_in_their_order_and_directories_without_their_slash() -> None:
    assert names("b/", "b/c.txt", "a.txt", "b/d/", "b/d/.e") == [
        "b",
        "b/c.txt",
        "a.txt",
        "b/d",
        "b/d/.e",
    ]
    assert check_names([("plain", True)], limits=LIMITS) == ["plain"]


def test_a_refusal_names_the_entry_the_reason_and_the_next_step() -> None:
    assert str(refusal("a\nb", "is odd")) == (
        "entry 'a\\nb' is odd; nothing was unpacked: build the archive again without it"
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is not a relative path"),
        ("/", "is not a relative path"),
        ("/etc/x", "is not a relative path"),
        ("C:x", "is not a relative path"),
        ("z:/x", "is not a relative path"),
        ("a\\b", "has a backslash"),
        ("a\x00b", "has a control character"),
        ("a\x9fb", "has a control character"),
        ("a\udc80b", "has a control character"),
        ("a\u2028b", "has a control character"),
        ("a\u2029b", "has a control character"),
        ("a//b", "has an empty, '.' or '..' part"),
        ("a/./b", "has an empty, '.' or '..' part"),
        ("a/../b", "has an empty, '.' or '..' part"),
        ("a/b//", "has an empty, '.' or '..' part"),
        (".", "has an empty, '.' or '..' part"),
        ("d/" * 16 + "f", "is 17 levels deep; at most 16 are unpacked"),
    ],
)
def test_a_name_that_leaves_or_is_not_portable_is_refused(name: str, why: str) -> None:
    assert refused(name).startswith(f"entry {name.removesuffix('/')!r} {why};")


def test_names_that_look_like_those_are_taken() -> None:
    fine = ["..a", "a..", "a.b", "...", "1:x", "CD:x", "a b", "\u00e9\u4e2d", "a\xa0b"]
    assert names(*fine) == fine


def test_depth_and_length_are_taken_up_to_their_limits() -> None:
    deep = "d/" * 15 + "f"
    assert names(deep, "n" * 255, "e/" + "\u00e9" * 127 + "x") == [
        deep,
        "n" * 255,
        "e/" + "\u00e9" * 127 + "x",
    ]
    assert refused("n" * 256) == (
        f"entry {'n' * 40 + '...'!r} has 256 bytes in a part; at most 255 fit; nothing was "
        "unpacked: build the archive again without it"
    )
    assert "has 257 bytes in a part" in refused("short/" + "\u00e9" * 128 + "x/short")
    assert "has 3 bytes in a part; at most 2" in refused(
        "abc", limits=UnpackLimits(max_name_bytes=2)
    )
    assert "is 2 levels deep; at most 1" in refused("a/b", limits=UnpackLimits(max_depth=1))


def test_entries_are_taken_up_to_their_limit() -> None:
    limits = UnpackLimits(max_entries=2)
    assert check_names([("a", False), ("b", False)], limits=limits) == ["a", "b"]
    assert refused("a", "b", "c", limits=limits) == (
        "entry 'c' is number 3; at most 2 entries are unpacked, so put many small files into one"
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("a", "a"), "entry 'a' is in it twice"),
        (("a/", "a"), "entry 'a' is in it twice"),
        (("d/f", "d/f"), "entry 'd/f' is in it twice"),
        (("Model.pt", "model.PT"), "entry 'model.PT' is the same file as 'Model.pt' where case"),
        (("D/a", "d/b"), "entry 'd/b' is the same file as 'D' where case is ignored"),
        (("x/D/a", "x/d/a"), "entry 'x/d/a' is the same file as 'x/D' where case is ignored"),
        (("\u00e9", "e\u0301"), "is the same file as"),
        (("stra\u00dfe", "STRASSE"), "is the same file as"),
        (("a", "a/b"), "entry 'a' is a file and also the directory of 'a/b'"),
        (("a/b/c", "a/b"), "entry 'a/b' is a file and also the directory of 'a/b/c'"),
        (("x/a/b/c", "x/a"), "entry 'x/a' is a file and also the directory of 'x/a/b/c'"),
    ],
)
def test_two_names_for_one_file_are_refused(given: tuple[str, ...], says: str) -> None:
    assert says in refused(*given)


def test_a_directory_and_what_is_in_it_go_together() -> None:
    assert names("a/b", "a/", "a/c/", "a/c/d") == ["a/b", "a", "a/c", "a/c/d"]


def test_bytes_are_taken_up_to_their_limit() -> None:
    limits = UnpackLimits(max_total_bytes=10)
    check_total(10, limits=limits)
    with pytest.raises(ArchiveError) as caught:
        check_total(11, limits=limits)
    assert str(caught.value) == (
        "the files take 11 bytes unpacked; at most 10 are unpacked, so raise that limit or drop "
        "files"
    )
