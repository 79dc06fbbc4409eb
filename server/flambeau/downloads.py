"""Archives from addresses: those of `allowed_hosts`, and those that `allowed_urls` lists.

Whoever registers a model chooses the address, so nothing is fetched that the server's owner has not
allowed. `allowed_hosts` is strict: HTTPS, no redirects, public addresses, and the archive's SHA-256
must be known. `allowed_urls` is TorchServe's setting and takes `file://` and redirects, too, which
must be allowed as well. Neither ever leads to where clouds keep their machines' credentials. The
texts of refusals are TorchServe's; the reason is the error's cause.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies

import httpx

from flambeau.allowed_hosts import AllowedHosts, Origin
from flambeau.errors import ArchiveExists, ConfigError, DownloadFailed
from flambeau.pinned_transport import (
    CheckAddress,
    PinnedTransport,
    Resolve,
    addresses_in,
    check_no_metadata,
    check_public,
    resolve,
)
from flambeau.s3_signing import Credentials, signed_headers
from flambeau.store import check_url, not_allowed
from flambeau.written_aside import written_aside

_PIECE_BYTES = 1 << 20
_SHA256_MISSING = (
    "the registration must give its sha256, which `sha256sum` and `flambeau archive show` print; "
    "require_sha256=false does without"
)
_MAX_NAME_BYTES = 240  # leaves room for what `written_aside` adds
_MAX_REDIRECTS = 5
_CONNECT_S, _SILENCE_S = 10.0, 30.0
_PATIENCE_S = 4 * 3600.0  # for one archive, at whatever pace
_TIMEOUT = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)


class Downloads:
    """Brings archives from allowed addresses into a store's directory."""

    def __init__(
        self,
        directory: Path,
        *,
        allowed_urls: Sequence[str] = (),
        allowed_hosts: AllowedHosts | None = None,
        require_sha256: bool = True,
        max_bytes: int = 256 << 30,
        resolve: Resolve = resolve,
    ) -> None:
        """Fetch into `directory`.

        Args:
            directory: Where archives go, each under its address's last part; made when needed.
            allowed_urls: Regular expressions of which one must match the whole address, in any
                case. None of them: nothing is allowed.
            allowed_hosts: Where archives may be, besides; None: nowhere.
            require_sha256: Fetch from `allowed_hosts` only what is known by its SHA-256.
            max_bytes: The most one archive may have.
            resolve: Finds the addresses of hosts.

        Raises:
            ConfigError: One of `allowed_urls` is no regular expression.
        """
        self._directory = directory
        self._allowed = [_compiled(pattern) for pattern in allowed_urls]
        self._hosts = allowed_hosts or AllowedHosts()
        self._require_sha256 = require_sha256
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._names: set[str] = set()  # being fetched now

    def fetch(self, url: str, *, s3_sse_kms: bool = False, sha256: str | None = None) -> Path:
        """Copy the archive at `url` into the directory; it appears complete or not at all.

        Args:
            url: Where it is.
            s3_sse_kms: Sign the request as S3 asks for objects encrypted with a KMS key.
            sha256: What the archive's must be, in hexadecimal; None takes any, where that is
                allowed.

        Raises:
            ModelNotFound: The address, or one it redirects to, is not allowed.
            ArchiveExists: The directory has a file of this name.
            DownloadFailed: The address is malformed, or cannot be read in whole, or the archive is
                another one.
        """
        check_url(url)
        origin = self._hosts.origin(url)
        if origin is None:
            self._check_allowed(url)
        try:
            if origin is not None and sha256 is None and self._require_sha256:
                raise ValueError(_SHA256_MISSING)  # noqa: TRY301  # told with the others
            name = name_of(url)
            with self._claimed(name) as target, written_aside(target) as file:
                total = hashlib.sha256()
                for piece in self._pieces(url, origin, s3_sse_kms=s3_sse_kms):
                    file.write(piece)
                    total.update(piece)
                    self._check_progress(file.tell())
                check_sha256(total.hexdigest(), expected=sha256)
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

    def _pieces(self, url: str, origin: Origin | None, *, s3_sse_kms: bool) -> Iterator[bytes]:
        if origin is not None:
            check = check_no_metadata if self._hosts.may_be_private(origin) else check_public
            with self._client(check, trust_env=False) as client:
                yield from self._pieces_of_http(client, url, s3_sse_kms=s3_sse_kms, redirects=0)
        elif urlsplit(url).scheme.lower() == "file":
            with _opened(url) as file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece
        else:
            with self._client(check_no_metadata, trust_env=True) as client:
                yield from self._pieces_of_http(
                    client, url, s3_sse_kms=s3_sse_kms, redirects=_MAX_REDIRECTS
                )

    def _client(self, check: CheckAddress, *, trust_env: bool) -> httpx.Client:
        """Straight to the address, or through the proxy of the environment if that is wished."""
        transport = PinnedTransport(check=check, resolve=self._resolve)
        return httpx.Client(transport=transport, timeout=_TIMEOUT, trust_env=trust_env)

    def _pieces_of_http(
        self, client: httpx.Client, url: str, *, s3_sse_kms: bool, redirects: int
    ) -> Iterator[bytes]:
        started_at = time.monotonic()
        credentials = Credentials.from_environment(os.environ) if s3_sse_kms else None
        host = urlsplit(url).netloc
        for _ in range(redirects + 1):
            request = client.build_request("GET", url, headers={"accept-encoding": "identity"})
            if client.trust_env and getproxies():
                self._check_host(request.url.host)
            if credentials is not None and urlsplit(url).netloc == host:
                now = datetime.now(timezone.utc)
                request.headers.update(
                    signed_headers(str(request.url), credentials=credentials, now=now)
                )
            response = client.send(request, stream=True)
            try:
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
            if redirects:
                self._check_allowed(url)
                _check_form(url)
        if not redirects:
            raise ValueError(f"it redirects to {url}, and allowed_hosts take no redirects")
        raise ValueError(f"it redirects more than {_MAX_REDIRECTS} times")

    def _check_host(self, host: str) -> None:
        """Refuse a host before a proxy is asked for it; what is not resolved here it may know."""
        try:
            found = self._resolve(host, 0)
        except (OSError, UnicodeError):
            return
        for text in found:
            for address in addresses_in(text):
                check_no_metadata(address)

    def _check_size(self, promised: str) -> None:
        free_bytes = shutil.disk_usage(self._directory).free
        if promised.isdigit() and int(promised) > min(self._max_bytes, free_bytes):
            raise ValueError(
                f"it has {promised} bytes; at most {self._max_bytes} are taken, and "
                f"{free_bytes} are free"
            )


def check_sha256(actual: str, *, expected: str | None) -> None:
    """Hold an archive against the digest that its registration gives.

    Raises:
        ValueError: It is another one, or the digest is none.
    """
    if expected is None:
        return
    if len(expected) != 64 or set(expected.lower()) - set("0123456789abcdef"):
        raise ValueError(f"sha256 is {expected!r}; give 64 hexadecimal digits")
    if actual != expected.lower():
        raise ValueError(
            f"its SHA-256 is {actual} and not {expected.lower()}; copy it again, or register what "
            "is there under its own digest"
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
