from __future__ import annotations

import pytest

from flambeau.api.request_head import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    Headers,
    check_head,
    check_known_host,
    expects_continue,
)
from flambeau.errors import (
    ExpectationFailed,
    HeadTooLarge,
    MalformedRequest,
    TargetTooLong,
    UnknownHost,
    UnsupportedContentType,
)

HOST = (b"host", b"127.0.0.1:8080")


def check(*headers: tuple[bytes, bytes], target: bytes = b"/ping", version: str = "1.1") -> None:
    check_head(target, [HOST, *headers], http_version=version)


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"127.0.0.1:8080", b"[::1]:8080", b"a_b.example", b"", b"xn--bcher-kva.example"],
)
def test_a_host_is_a_name_with_or_without_a_port(host: bytes) -> None:
    check_head(b"/ping", [(b"host", host)], http_version="1.1")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [HOST, HOST],
        *([(b"host", host)] for host in (b"a/ping?", b"a?b", b"a#b", b"user@a", b"a b", b"a\\b")),
        [(b"host", b"a,\xe9")],
    ],
)
def test_no_host_or_an_odd_one_or_two_are_refused(headers: Headers) -> None:
    with pytest.raises(MalformedRequest, match="send one Host header with a host's name"):
        check_head(b"/ping", headers, http_version="1.1")


NAMES = frozenset({"models.example"})


@pytest.mark.parametrize(
    "host",
    [
        *(b"models.example", b"MODELS.example:8080", b"localhost:1", b"127.0.0.1:8080"),
        *(b"10.1.2.3", b"[::1]:8080", b"[fe80::1]", b""),
    ],
)
def test_a_server_with_names_may_be_called_by_them_and_by_numbers(host: bytes) -> None:
    check_known_host([(b"host", host)], NAMES)


@pytest.mark.parametrize(
    "host",
    [
        *(b"rebound.example:8080", b"models.example.evil.example", b"evil.models.example"),
        *(b"models.example.", b"localhost.example", b"127.0.0.1.example", b"2130706433", b"[x]"),
    ],
)
def test_a_server_with_names_may_not_be_called_by_others(host: bytes) -> None:
    with pytest.raises(UnknownHost, match="add its names to host_names"):
        check_known_host([(b"host", host)], NAMES)
    check_known_host([(b"host", host)], frozenset())  # without names, any will do


def test_the_oldest_protocol_needs_no_host() -> None:
    check_head(b"/ping", [], http_version="1.0")
    with pytest.raises(MalformedRequest):
        check_head(b"/ping", [HOST, HOST], http_version="1.0")


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0"])
def test_other_protocols_are_refused(version: str) -> None:
    with pytest.raises(MalformedRequest, match=r"use HTTP/1\.1"):
        check(version=version)


def test_each_limit_is_kept_to_the_byte() -> None:
    check(target=b"/" + b"x" * (MAX_TARGET_BYTES - 1))
    with pytest.raises(TargetTooLong):
        check(target=b"/" + b"x" * MAX_TARGET_BYTES)
    many = [(b"x", b"y")] * (MAX_HEADERS - 1)
    check(*many)
    with pytest.raises(HeadTooLarge):
        check(*many, (b"x", b"y"))
    rest = MAX_HEAD_BYTES - len(b"/ping") - len(b"host: 127.0.0.1:8080\r\n") - len(b"x: \r\n")
    check((b"x", b"y" * rest))
    with pytest.raises(HeadTooLarge):
        check((b"x", b"y" * (rest + 1)))


@pytest.mark.parametrize("target", [b"/a#b", b"/a?b#c", b"/%00", b"/a%0d%0ab", b"/%7f"])
def test_an_address_is_one_word_without_control_characters(target: bytes) -> None:
    with pytest.raises(MalformedRequest):
        check(target=target)
    check(target=b"/a?b=%00")  # a query is data


@pytest.mark.parametrize(
    "headers",
    [
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"chunked"), (b"content-length", b"1")],
        [(b"content-length", b"1"), (b"content-length", b"1")],
    ],
)
def test_where_a_body_ends_is_beyond_doubt(headers: Headers) -> None:
    with pytest.raises(MalformedRequest):
        check(*headers)
    check((b"transfer-encoding", b"Chunked"))
    with pytest.raises(MalformedRequest):
        check((b"transfer-encoding", b"chunked"), version="1.0")


@pytest.mark.parametrize("coding", [b"cow", b"", b"gzip, gzip", b"gzip,"])
def test_a_body_is_coded_once_and_in_a_known_way(coding: bytes) -> None:
    with pytest.raises(UnsupportedContentType):
        check((b"content-encoding", coding))
    check((b"content-encoding", b"GZIP"))


def test_only_100_continue_can_be_expected() -> None:
    expecting: Headers = [HOST, (b"expect", b"100-Continue")]
    check_head(b"/ping", expecting, http_version="1.1")
    assert expects_continue(expecting, http_version="1.1")
    assert not expects_continue(expecting, http_version="1.0")
    with pytest.raises(ExpectationFailed):
        check((b"expect", b"a miracle"))
