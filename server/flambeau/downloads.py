"""Archives from addresses: `file://`, `http://` and `https://` that `allowed_urls` lists.

Whoever registers a model chooses the address, so nothing is fetched that the server's owner has not
allowed, redirects included, and never from where clouds keep their machines' credentials. The texts
of refusals are TorchServe's; the reason is the error's cause.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import stat
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpx

from flambeau.errors import ArchiveExists, ConfigError, DownloadFailed
from flambeau.s3_signing import Credentials, signed_headers
from flambeau.store import check_url, not_allowed
from flambeau.written_aside import written_aside

_PIECE_BYTES = 1 << 20
_MAX_NAME_BYTES = 240  # leaves room for what `written_aside` adds
_MAX_REDIRECTS = 5
_CONNECT_S, _SILENCE_S = 10.0, 30.0
_PATIENCE_S = 4 * 3600.0  # for one archive, at whatever pace
_METADATA = {  # where clouds answer beside the link-local addresses
    ipaddress.ip_address("fd00:ec2::254"),  # Amazon
    ipaddress.ip_address("100.100.100.200"),  # Alibaba
}


class Downloads:
    """Brings archives from allowed addresses into a store's directory."""

    def __init__(
        self, directory: Path, *, allowed_urls: Sequence[str] = (), max_bytes: int = 256 << 30
    ) -> None:
        """Fetch into `directory`.

        Args:
            directory: Where archives go, each under its address's last part; made when needed.
            allowed_urls: Regular expressions of which one must match the whole address, in any
                case. None of them: nothing is allowed.
            max_bytes: The most one archive may have.

        Raises:
            ConfigError: One of `allowed_urls` is no regular expression.
        """
        self._directory = directory
        self._allowed = [_compiled(pattern) for pattern in allowed_urls]
        self._max_bytes = max_bytes
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._names: set[str] = set()  # being fetched now

    def fetch(self, url: str, *, s3_sse_kms: bool = False) -> Path:
        """Copy the archive at `url` into the directory; it appears complete or not at all.

        Args:
            url: Where it is.
            s3_sse_kms: Sign the request as S3 asks for objects encrypted with a KMS key.

        Raises:
            ModelNotFound: The address, or one it redirects to, is not allowed.
            ArchiveExists: The directory has a file of this name.
            DownloadFailed: The address is malformed, or cannot be read in whole.
        """
        self._check_allowed(url)
        try:
            name = name_of(url)
            with self._claimed(name) as target, written_aside(target) as file:
                for piece in self._pieces(url, s3_sse_kms=s3_sse_kms):
                    file.write(piece)
                    self._check_progress(file.tell())
        except (OSError, ValueError, ConfigError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise DownloadFailed(f"Failed to download archive from: {url}") from error
        return target

    def directory(self, path: str) -> Path | None:
        """The directory that a path outside the store names, if its `file://` address is allowed.

        TorchServe serves any directory of the machine in this way, whatever `allowed_urls` says.
        """
        if ".." in path or not os.path.isdir(path):  # noqa: PTH112  # Path's raises for odd names
            return None
        found = Path(path).resolve()
        url = f"file://{quote(str(found))}"
        return found if any(pattern.fullmatch(url) for pattern in self._allowed) else None

    def stop(self) -> None:
        """Give up what is being fetched, and all that comes."""
        self._stopping.set()

    def _check_progress(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise ValueError(f"it has more than {self._max_bytes} bytes")
        if self._stopping.is_set():
            raise InterruptedError("the server is stopping")

    def _check_allowed(self, url: str) -> None:
        check_url(url)
        if not any(pattern.fullmatch(url) for pattern in self._allowed):
            raise not_allowed(url)

    @contextmanager
    def _claimed(self, name: str) -> Generator[Path]:
        """The file to write, which is nobody else's while the block runs."""
        self._directory.mkdir(parents=True, exist_ok=True)
        target = self._directory / name
        with self._lock:
            if name in self._names or os.path.lexists(target):
                raise ArchiveExists(f"Model file already exists {name}")
            self._names.add(name)
        try:
            yield target
        finally:
            self._names.discard(name)

    def _pieces(self, url: str, *, s3_sse_kms: bool) -> Iterator[bytes]:
        if urlsplit(url).scheme.lower() == "file":
            with _opened(url) as file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece
        else:
            yield from self._pieces_of_http(url, s3_sse_kms=s3_sse_kms)

    def _pieces_of_http(self, url: str, *, s3_sse_kms: bool) -> Iterator[bytes]:
        started_at = time.monotonic()
        credentials = Credentials.from_environment(os.environ) if s3_sse_kms else None
        host = urlsplit(url).netloc
        with httpx.Client(timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)) as client:
            for _ in range(_MAX_REDIRECTS + 1):
                request = client.build_request("GET", url, headers={"accept-encoding": "identity"})
                _check_host(request.url.host)
                if credentials is not None and urlsplit(url).netloc == host:
                    now = datetime.now(timezone.utc)
                    request.headers.update(
                        signed_headers(str(request.url), credentials=credentials, now=now)
                    )
                response = client.send(request, stream=True)
                try:
                    _check_peer(response)
                    if not response.has_redirect_location:
                        response.raise_for_status()
                        self._check_size(response.headers.get("content-length", ""))
                        for piece in response.iter_raw(_PIECE_BYTES):
                            if time.monotonic() - started_at > _PATIENCE_S:
                                raise TimeoutError(f"it took more than {_PATIENCE_S:g} s")
                            yield piece
                        return
                    url = urljoin(url, response.headers["location"])
                finally:
                    response.close()
                self._check_allowed(url)
                _check_form(url)
        raise ValueError(f"it redirects more than {_MAX_REDIRECTS} times")

    def _check_size(self, promised: str) -> None:
        free_bytes = shutil.disk_usage(self._directory).free
        if promised.isdigit() and int(promised) > min(self._max_bytes, free_bytes):
            raise ValueError(
                f"it has {promised} bytes; at most {self._max_bytes} are taken, and "
                f"{free_bytes} are free"
            )


def name_of(url: str) -> str:
    """The archive's name in the store: the last part of the address, without its query.

    Raises:
        ValueError: The address is malformed, or its last part is no plain name.
    """
    _check_form(url)
    name = unquote(urlsplit(url).path, errors="strict").rpartition("/")[2]
    plain = name.isprintable() and not name.startswith(".") and "\\" not in name
    if not name or not plain or len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"its last part is {name!r}, which cannot be a file's name in the store")
    return name


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(
            f"allowed_urls has {pattern!r}, which is no regular expression: {error}"
        ) from error


def _check_form(url: str) -> None:
    """Refuse what two readers of an address could understand differently."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in {"file", "http", "https"}:
        raise ValueError("use file://, http:// or https://; s3:// objects have https:// addresses")
    if "\\" in url or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("it has a backslash, a blank or a character outside ASCII; encode it")
    if "@" in parts.netloc:
        raise ValueError("it has a user name in front of the host; leave it out")


@contextmanager
def _opened(url: str) -> Generator[BinaryIO]:
    """The regular file that a `file://` address names."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path, errors="strict"))
    if parts.netloc.lower() not in {"", "localhost"}:
        raise ValueError(f"its host is {parts.netloc!r}; write file:///PATH for a file here")
    if ".." in path.parts:
        raise ValueError("it has '..' in its path")
    # without waiting, else a FIFO would never open
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123  # of a descriptor
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is not a regular file")
        yield file


def _check_host(host: str) -> None:
    """Refuse a host before anything is sent to it; what cannot be resolved a proxy may know."""
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    for *_, address in infos:
        _check_address(str(address[0]))


def _check_peer(response: httpx.Response) -> None:
    """The same for who answered: a name may mean another address by then."""
    stream = response.extensions.get("network_stream")
    address = None if stream is None else stream.get_extra_info("server_addr")
    if address:
        _check_address(str(address[0]))


def _check_address(text: str) -> None:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address in _METADATA:
        raise ValueError(f"{address} is an address of the machine's own metadata service")
