"""Archives fetched from files and from a real HTTP server on this machine."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from flambeau.downloads import Downloads
from flambeau.errors import ArchiveExists, ConfigError, DownloadFailed, ModelNotFound

EVERYTHING = [r"file://.*", r"http(s)?://.*"]  # TorchServe's default
CONTENT = b"archive" * 100_000


class Handler(BaseHTTPRequestHandler):
    """Answers by path, and remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[tuple[str, dict[str, str]]]]
    asked: ClassVar[threading.Event]
    go_on: ClassVar[threading.Event]

    def do_GET(self) -> None:
        self.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        path, _, query = self.path.partition("?")
        query = query or ("/redirect/circle.mar" if path.endswith("circle.mar") else "")
        if path.startswith("/redirect/"):
            self.send_response(302)
            self.send_header("location", query or f"../{path.rpartition('/')[2]}")
            self.send_header("content-length", "0")
            self.end_headers()
        elif path.endswith("missing.mar"):
            self.send_error(404)
        elif path.endswith("endless.mar"):
            self.send_response(200)
            self.send_header("content-length", str(1 << 60))
            self.end_headers()
        else:
            self._answer(path)

    def _answer(self, path: str) -> None:
        self.send_response(200)
        if "encoded" in path:
            self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(CONTENT)))
        self.end_headers()
        if path.endswith("held.mar"):
            self.wfile.write(CONTENT[:1000])
            self.wfile.flush()
            self.asked.set()
            self.go_on.wait(30)
            self.wfile.write(CONTENT[1000:])
        elif path.endswith("short.mar"):
            self.wfile.write(CONTENT[:1000])
            self.close_connection = True
        else:
            self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Tests print nothing."""


class Web:
    """A server, and what it was asked."""

    def __init__(self) -> None:
        class Own(Handler):
            requests: ClassVar[list[tuple[str, dict[str, str]]]] = []
            asked = threading.Event()
            go_on = threading.Event()

        self.handler: type[Handler] = Own
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.handler.go_on.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    served = Web()
    yield served
    served.close()


def reason(url: str, downloads: Downloads) -> str:
    """Why a download failed; the message itself is TorchServe's, and nothing is left behind."""
    with pytest.raises(DownloadFailed) as caught:
        downloads.fetch(url)
    assert str(caught.value) == f"Failed to download archive from: {url}"
    return str(caught.value.__cause__)


def test_a_file_is_copied_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "my model.mar").write_bytes(CONTENT)
    downloads = Downloads(tmp_path / "store", allowed_urls=EVERYTHING)
    path = downloads.fetch(f"file://{tmp_path}/my%20model.mar")
    assert path == tmp_path / "store" / "my model.mar"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("query", ["", "?X-Amz-Signature=a/b.mar&versionId=1", "#part"])
def test_a_download_takes_its_name_from_the_path_alone(
    query: str, web: Web, tmp_path: Path
) -> None:
    downloads = Downloads(tmp_path, allowed_urls=EVERYTHING)
    path = downloads.fetch(f"{web.url}/models/digits.mar{query}")
    assert path == tmp_path / "digits.mar"
    assert path.read_bytes() == CONTENT
    assert [item.name for item in tmp_path.iterdir()] == ["digits.mar"]


def test_bytes_arrive_as_they_are_sent(web: Web, tmp_path: Path) -> None:
    """Servers call a tar.gz file gzip-encoded, which would be undone."""
    path = Downloads(tmp_path, allowed_urls=EVERYTHING).fetch(f"{web.url}/encoded.tar.gz")
    assert path.read_bytes() == CONTENT
    assert web.handler.requests[0][1]["accept-encoding"] == "identity"


# what is allowed


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty url"),
        ("http://h/../m.mar", "Relative path is not allowed in url: http://h/../m.mar"),
        ("http://h/m.mar", "Given URL http://h/m.mar does not match any allowed URL(s)"),
        ("s3://b/m.mar", "Given URL s3://b/m.mar does not match any allowed URL(s)"),
        (
            "https://s3.example.com/m.mar?x=\n",
            "Given URL https://s3.example.com/m.mar?x=\n does not match any allowed URL(s)",
        ),
    ],
)
def test_refusals_have_the_texts_of_torchserve(url: str, message: str, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, allowed_urls=[r"https://s3\.example\.com/.*"])
    with pytest.raises(ModelNotFound) as caught:
        downloads.fetch(url)
    assert str(caught.value) == message


def test_nothing_is_allowed_unless_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.mar").write_bytes(CONTENT)
    with pytest.raises(ModelNotFound, match="does not match any allowed"):
        Downloads(tmp_path / "store").fetch(f"file://{tmp_path}/m.mar")


def test_a_pattern_matches_the_whole_address_in_any_case(web: Web, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, allowed_urls=[f"{web.url.upper()}/MODELS/.*mar"])
    assert downloads.fetch(f"{web.url}/models/a.mar").name == "a.mar"
    for url in (f"{web.url}/models/b.zip", f"x{web.url}/models/b.mar"):
        with pytest.raises(ModelNotFound, match="does not match any allowed"):
            downloads.fetch(url)


def test_a_pattern_that_is_none_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"allowed_urls has 'http\(', which is no regular"):
        Downloads(tmp_path, allowed_urls=["http("])


def test_redirects_are_followed_where_they_are_allowed(web: Web, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, allowed_urls=[f"{web.url}/redirect/.*", f"{web.url}/ok.*"])
    assert downloads.fetch(f"{web.url}/redirect/ok.mar").read_bytes() == CONTENT
    for target in (f"{web.url}/secret.mar", "file:///etc/passwd", "http://169.254.169.254/m.mar"):
        with pytest.raises(ModelNotFound) as caught:
            downloads.fetch(f"{web.url}/redirect/m.mar?{target}")
        assert str(caught.value) == f"Given URL {target} does not match any allowed URL(s)"
    assert [item.name for item in tmp_path.iterdir()] == ["ok.mar"]


def test_redirects_end(web: Web, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, allowed_urls=EVERYTHING)
    said = reason(f"{web.url}/redirect/circle.mar", downloads)
    assert said == "it redirects more than 5 times"
    assert len(web.handler.requests) == 6
    with pytest.raises(DownloadFailed):
        downloads.fetch(f"{web.url}/redirect/m.mar?file:///etc/passwd")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/m.mar",
        "http://[fe80::1]/m.mar",
        "http://[::ffff:169.254.169.254]/m.mar",
        "http://[fd00:ec2::254]/m.mar",
        "http://100.100.100.200/m.mar",
        "http://2852039166/m.mar",  # 169.254.169.254 as one number
    ],
)
def test_metadata_services_are_not_asked(url: str, tmp_path: Path) -> None:
    said = reason(url, Downloads(tmp_path, allowed_urls=EVERYTHING))
    assert "metadata service" in said


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/m.mar", "use file://, http:// or https://"),
        ("s3://bucket/m.mar", "use file://, http:// or https://"),
        ("http://good.example.com@127.0.0.1/m.mar", "user name"),
        ("http://127.0.0.1\\@good.example.com/m.mar", "backslash"),
        ("http://127.0.0.1/m\u00fc.mar", "outside ASCII"),
        ("http://127.0.0.1/m .mar", "blank"),
        ("http://127.0.0.1/", "its last part is ''"),
        ("http://127.0.0.1", "its last part is ''"),
        ("http://127.0.0.1/.hidden.mar", "'.hidden.mar', which cannot be"),
        ("http://127.0.0.1/a%2F.%2E%2Fx%00.mar", "cannot be a file's name"),
        ("http://127.0.0.1/a%5Cb.mar", "cannot be a file's name"),
        ("http://127.0.0.1/%FF.mar", "utf-8"),
        (f"http://127.0.0.1/{'n' * 250}.mar", "cannot be a file's name"),
        ("http://[::1/m.mar", "IPv6"),
        ("http://127.0.0.1:99999/m.mar", ""),
        ("http:///m.mar", ""),
        ("file://host/m.mar", "write file:///PATH"),
        ("file:///nowhere/m.mar", "No such file"),
        ("file:///etc/%2e%2e/etc/passwd", "'..' in its path"),
        ("file:///dev/null", "not a regular file"),
        ("file:///etc", "directory"),
        ("file:///etc/passwd%00.mar", "cannot be a file's name"),
    ],
)
def test_what_cannot_be_fetched_says_why(url: str, says: str, tmp_path: Path) -> None:
    said = reason(url, Downloads(tmp_path, allowed_urls=[".*"]))
    assert says in said
    assert list(tmp_path.iterdir()) == []


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.mar")
    said = reason(f"file://{tmp_path}/m.mar", Downloads(tmp_path / "s", allowed_urls=EVERYTHING))
    assert "not a regular file" in said


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing.mar", "404"),
        ("short.mar", "closed connection"),
        ("endless.mar", "at most"),
        ("big.mar", "at most 1000 are taken"),
    ],
)
def test_a_download_is_whole_or_not_there(path: str, says: str, web: Web, tmp_path: Path) -> None:
    max_bytes = 1000 if path == "big.mar" else 1 << 30
    downloads = Downloads(tmp_path, allowed_urls=EVERYTHING, max_bytes=max_bytes)
    assert says in reason(f"{web.url}/{path}", downloads)
    assert list(tmp_path.iterdir()) == []


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.mar").write_bytes(CONTENT)
    downloads = Downloads(tmp_path / "store", allowed_urls=EVERYTHING, max_bytes=1000)
    assert "more than 1000 bytes" in reason(f"file://{tmp_path}/m.mar", downloads)
    assert list((tmp_path / "store").iterdir()) == []


def test_nobody_listening_is_a_failed_download(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/m.mar"
        assert "refused" in reason(url, Downloads(tmp_path, allowed_urls=EVERYTHING))


# one name, one file


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_is_in_the_store_is_not_replaced(kind: str, web: Web, tmp_path: Path) -> None:
    taken = tmp_path / "digits.mar"
    if kind == "file":
        taken.write_bytes(b"mine")
    elif kind == "directory":
        taken.mkdir()
    else:
        taken.symlink_to("nowhere")
    downloads = Downloads(tmp_path, allowed_urls=EVERYTHING)
    with pytest.raises(ArchiveExists) as caught:
        downloads.fetch(f"{web.url}/digits.mar")
    assert str(caught.value) == "Model file already exists digits.mar"
    assert web.handler.requests == []


def test_a_name_that_is_being_fetched_is_taken(web: Web, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, allowed_urls=EVERYTHING)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(downloads.fetch, f"{web.url}/held.mar")
        assert web.handler.asked.wait(30)
        with pytest.raises(ArchiveExists, match=r"already exists held\.mar"):
            downloads.fetch(f"{web.url}/other/held.mar")
        web.handler.go_on.set()
        assert first.result().read_bytes() == CONTENT
    first.result().unlink()
    assert downloads.fetch(f"{web.url}/other/held.mar").read_bytes() == CONTENT


def test_stopping_ends_a_download(web: Web, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, allowed_urls=EVERYTHING)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(downloads.fetch, f"{web.url}/held.mar")
        assert web.handler.asked.wait(30)
        downloads.stop()
        web.handler.go_on.set()
        with pytest.raises(DownloadFailed) as caught:
            fetching.result()
    assert "the server is stopping" in str(caught.value.__cause__)
    assert list(tmp_path.iterdir()) == []


# S3


def test_s3_requests_are_signed_for_the_host_that_was_named(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = Downloads(tmp_path, allowed_urls=EVERYTHING)
    with pytest.raises(DownloadFailed) as caught:
        downloads.fetch(f"{web.url}/m.mar", s3_sse_kms=True)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value.__cause__)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    other = web.url.replace("127.0.0.1", "localhost")
    downloads.fetch(f"{web.url}/redirect/m.mar?{other}/m.mar", s3_sse_kms=True)
    (_, first), (_, second) = web.handler.requests
    assert first["authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")
    assert "eu-west-1/s3/aws4_request" in first["authorization"]
    assert "x-amz-date" in first
    assert "authorization" not in second
    downloads.fetch(f"{web.url}/plain.mar")
    assert "authorization" not in web.handler.requests[-1][1]
