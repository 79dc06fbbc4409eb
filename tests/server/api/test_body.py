from __future__ import annotations

import pytest

from flambeau.api.body import split_inputs
from flambeau.errors import InvalidInput

MULTIPART = "multipart/form-data; boundary=XX"


def part(name: str, data: bytes, extra: str = "") -> bytes:
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"\r\n{extra}\r\n'
    return head.encode() + data + b"\r\n"


def fields(body: bytes, content_type: str | None) -> dict[str, tuple[str | None, bytes]]:
    inputs = split_inputs(body, content_type=content_type)
    return {each.name: (each.content_type, bytes(each.body)) for each in inputs}


@pytest.mark.parametrize("content_type", [None, "application/json", "image/png", "text/plain"])
def test_a_plain_body_is_one_input_of_its_content_type(content_type: str | None) -> None:
    assert fields(b"\x00abc", content_type) == {"body": (content_type, b"\x00abc")}


def test_each_part_of_a_multipart_form_is_an_input() -> None:
    body = (
        part("data", b"\x89PNG\r\n--X", "Content-Type: image/png\r\n") + part("k", b"5") + b"--XX--"
    )
    assert fields(body, MULTIPART) == {
        "data": ("image/png", b"\x89PNG\r\n--X"),
        "k": (None, b"5"),
    }


def test_a_repeated_field_keeps_its_last_value() -> None:
    assert fields(part("a", b"1") + part("a", b"2") + b"--XX--\r\n", MULTIPART) == {
        "a": (None, b"2")
    }


def test_a_url_encoded_form_gives_its_fields() -> None:
    assert fields(b"data=a+b%26&empty=", "application/x-www-form-urlencoded") == {
        "data": (None, b"a b&"),
        "empty": (None, b""),
    }


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data"),
        (b"", MULTIPART),
        (b"garbage", MULTIPART),
        (part("a", b"1"), MULTIPART),
        (part("a", b"1")[:-10], MULTIPART),
        (b"--XX--\r\n", MULTIPART),
        (b"--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--", MULTIPART),
        (b"--XX\r\n" + b"X" * 10_000 + b"\r\n--XX--", MULTIPART),
        (b"", "application/x-www-form-urlencoded"),
        (b"\xff=\xff", "application/x-www-form-urlencoded"),
        (b"&".join(b"%d=" % i for i in range(2000)), "application/x-www-form-urlencoded"),
    ],
    ids=[
        "no boundary",
        "empty",
        "garbage",
        "no closing boundary",
        "cut inside a part",
        "no parts",
        "part without a name",
        "huge header",
        "empty form",
        "not UTF-8",
        "too many fields",
    ],
)
def test_a_damaged_form_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(InvalidInput):
        split_inputs(body, content_type=content_type)


def test_a_form_with_too_many_parts_is_refused() -> None:
    body = b"".join(part(str(i), b"") for i in range(101)) + b"--XX--"
    with pytest.raises(InvalidInput, match="more than 100 parts"):
        split_inputs(body, content_type=MULTIPART)
