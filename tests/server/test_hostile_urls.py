"""Hostile addresses of tests/corpora/urls.json: none of them reaches anything on this machine."""

from __future__ import annotations

import json
import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from flambeau.allowed_hosts import AllowedHosts
from flambeau.downloads import Downloads
from flambeau.errors import ConfigError, DownloadFailed, ModelNotFound
from flambeau.pinned_transport import addresses_in, check_public

CORPUS: list[dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "corpora" / "urls.json").read_bytes()
)
SHA256 = "0" * 64


class Canary:
    """Listens on every loopback address at one port, and counts who comes.

    With an answer it gives that to each, and counts nobody.
    """

    def __init__(self, answer: bytes = b"") -> None:
        self.hits = 0
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._listeners = [socket.create_server(("127.0.0.1", 0))]
        self.port: int = self._listeners[0].getsockname()[1]
        self._listeners.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    return
                assert isinstance(key.fileobj, socket.socket)
                client, _ = key.fileobj.accept()
                with client:
                    self.hits += not self._answer
                    if self._answer:
                        client.recv(65536)
                        client.sendall(self._answer)

    def count(self) -> int:
        """How many came; a connection of ours behind them all shows that they were counted."""
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.recv(1)  # until it is closed
        self.hits -= 1
        return self.hits

    def close(self) -> None:
        self._stop.close()
        self._thread.join()
        for each in (*self._listeners, self._stopped):
            each.close()
        self._selector.close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.close()


def names_only(host: str, port: int) -> list[str]:
    """Numbers in all the spellings of the C library; every name leads to the canary."""
    try:
        infos = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ["127.0.0.1", "::1"]
    return [str(address[0]) for *_, address in infos]


def spelt_hosts(url: str) -> list[str]:
    """The settings of an operator who takes the address for a good one."""
    entry = "/".join(url.split("/", 3)[:3])
    try:
        AllowedHosts([entry])
    except ConfigError:
        return []
    return [entry]


@pytest.mark.parametrize("case", CORPUS, ids=[case["case"] for case in CORPUS])
def test_a_hostile_address_is_refused_and_reaches_nobody(
    case: dict[str, str], canary: Canary, tmp_path: Path
) -> None:
    url = case["url"].replace("{port}", str(canary.port))
    for hosts in (["models.example.com"], ["models.example.com", *spelt_hosts(url)]):
        downloads = Downloads(
            tmp_path / "store",
            allowed_hosts=AllowedHosts(hosts),
            require_sha256=False,
            resolve=names_only,
        )
        with pytest.raises((ModelNotFound, DownloadFailed)):
            downloads.fetch(url)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert canary.count() == 0


def test_the_corpus_is_of_the_size_that_is_promised() -> None:
    assert len(CORPUS) >= 60
    assert len({case["url"] for case in CORPUS}) == len(CORPUS)


def strict(
    directory: Path, *hosts: str, answers: Sequence[Sequence[str]], private: Sequence[str] = ()
) -> tuple[Downloads, list[str]]:
    """Downloads from these hosts, whose addresses are the given answers in turn; who was asked."""
    asked: list[str] = []

    def flipping(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    allowed = AllowedHosts(hosts, private=private)
    made = Downloads(directory, allowed_hosts=allowed, require_sha256=False, resolve=flipping)
    return made, asked


def reason(downloads: Downloads, url: str) -> str:
    with pytest.raises(DownloadFailed) as caught:
        downloads.fetch(url)
    return str(caught.value.__cause__)


def test_a_name_that_leads_inside_is_not_connected(canary: Canary, tmp_path: Path) -> None:
    host = f"http://models.example.com:{canary.port}"
    for answers in (["127.0.0.1"], ["::1"], ["192.0.2.1"], ["93.184.216.34", "127.0.0.1"]):
        downloads, _ = strict(tmp_path, host, answers=[answers])
        assert "is not a public address" in reason(downloads, f"{host}/m.mar")
    assert canary.count() == 0


def test_a_name_is_resolved_once(canary: Canary, tmp_path: Path) -> None:
    """The first answer is harmless and nobody listens there; a second one would be the canary."""
    host = f"http://mirror.test:{canary.port}"
    downloads, asked = strict(
        tmp_path, host, answers=[["127.0.0.3"], ["127.0.0.1"]], private=["mirror.test"]
    )
    assert "refused" in reason(downloads, f"{host}/m.mar")
    assert asked == ["mirror.test"]
    assert canary.count() == 0


def test_a_redirect_is_not_followed(canary: Canary, tmp_path: Path) -> None:
    location = f"http://127.0.0.1:{canary.port}/m.mar"
    mirror = Canary(
        f"HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()
    )
    host = f"http://mirror.test:{mirror.port}"
    downloads, _ = strict(tmp_path, host, answers=[["127.0.0.1"]], private=["mirror.test"])
    try:
        assert f"it redirects to {location}" in reason(downloads, f"{host}/m.mar")
    finally:
        mirror.close()
    assert canary.count() == 0


def test_a_private_mirror_is_used_when_it_is_named(tmp_path: Path) -> None:
    mirror = Canary(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\narchive")
    host = f"http://mirror.test:{mirror.port}"
    downloads, _ = strict(tmp_path, host, answers=[["127.0.0.1"]], private=["mirror.test"])
    try:
        sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
        with pytest.raises(DownloadFailed) as caught:
            downloads.fetch(f"{host}/m.mar", sha256=sha256)
        assert "and not 2c26b46b" in str(caught.value.__cause__)
        assert list(tmp_path.iterdir()) == []
        assert downloads.fetch(f"{host}/m.mar").read_bytes() == b"archive"
    finally:
        mirror.close()


def test_metadata_is_not_read_even_by_a_private_mirror(tmp_path: Path) -> None:
    host = "http://mirror.test"
    for answer in ("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"):
        downloads, _ = strict(tmp_path, host, answers=[[answer]], private=["mirror.test"])
        assert "metadata service" in reason(downloads, f"{host}/m.mar")


def test_what_is_fetched_must_be_known_by_its_digest(tmp_path: Path) -> None:
    downloads = Downloads(
        tmp_path, allowed_hosts=AllowedHosts(["models.example.com"]), resolve=names_only
    )
    url = "https://models.example.com/m.mar"
    assert "must give its sha256" in reason(downloads, url)
    with pytest.raises(DownloadFailed) as caught:
        downloads.fetch(url, sha256=SHA256)
    assert "is not a public address" in str(caught.value.__cause__)


def test_hosts_are_compared_as_they_are_spelt() -> None:
    hosts = AllowedHosts(["models.example.com", "other.example.com:8443", "http://plain.test:80"])
    for url in (
        "https://models.example.com/a/m.mar?x=1&y=%20",
        "https://MODELS.example.com:443/m.mar",
        "https://other.example.com:8443/m.mar",
        "http://plain.test/m.mar",
    ):
        assert hosts.origin(url) is not None
    for url in (
        "http://models.example.com/m.mar",
        "https://models.example.com:8443/m.mar",
        "https://other.example.com/m.mar",
        "https://models.example.com/m.mar#x",
        "https://models.example.com",
        "https://models.example.com/%zz",
    ):
        assert hosts.origin(url) is None


@pytest.mark.parametrize("entry", ["", "*.example.com", "a b", "ftp://h", "h/path", "u@h", "h:x"])
def test_a_host_that_is_none_is_a_mistake_in_the_settings(entry: str) -> None:
    with pytest.raises(ConfigError, match="give HOST or HOST:PORT"):
        AllowedHosts([entry])


def test_a_private_host_must_be_allowed() -> None:
    with pytest.raises(ConfigError, match=r"private_hosts has mirror\.test"):
        AllowedHosts(["other.test"], private=["mirror.test"])


@pytest.mark.parametrize("text", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_public_addresses_are_public(text: str) -> None:
    for address in addresses_in(text):
        check_public(address)
