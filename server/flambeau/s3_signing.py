"""Amazon's signature, version 4, of a GET from S3: what objects encrypted with a KMS key ask for.

The scheme is public: "Authenticating Requests: Using the Authorization Header" in the S3 manual.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlsplit

from flambeau.errors import ConfigError

_ALGORITHM = "AWS4-HMAC-SHA256"
_NO_CONTENT = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """Who signs, and for which region."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Credentials:
        """Read `AWS_ACCESS_KEY_ID` and its neighbours.

        Raises:
            ConfigError: One that is needed is not set.
        """
        needed = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        missing = [name for name in needed if not environment.get(name)]
        if missing:
            raise ConfigError(
                f"s3_sse_kms signs with the server's {', '.join(needed)}; set {', '.join(missing)}"
            )
        key, secret, region = (environment[name] for name in needed)
        return cls(
            access_key_id=key,
            secret_access_key=secret,
            session_token=environment.get("AWS_SESSION_TOKEN") or None,
            region=region,
        )


def signed_headers(
    url: str,
    *,
    credentials: Credentials,
    now: datetime,
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The headers of a GET request for `url`, the signature among them.

    Args:
        url: An `https` address of an object; its path and query are percent-encoded already.
        credentials: Who signs.
        now: The time in UTC; Amazon takes 15 minutes of difference.
        headers: More headers that the request has; they are signed too.
    """
    parts = urlsplit(url)
    time, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    signed = {key.lower(): value.strip() for key, value in (headers or {}).items()}
    signed |= {"host": parts.netloc, "x-amz-content-sha256": _NO_CONTENT, "x-amz-date": time}
    if credentials.session_token is not None:
        signed["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(signed))
    request = "\n".join(
        [
            "GET",
            parts.path or "/",
            _canonical_query(parts.query),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            _NO_CONTENT,
        ]
    )
    scope = f"{day}/{credentials.region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, f"{_ALGORITHM}\n{time}\n{scope}\n{digest}").hex()
    return {
        **{name: value for name, value in signed.items() if name != "host"},
        "authorization": f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope},"
        f"SignedHeaders={names},Signature={signature}",
    }


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    return "&".join(sorted(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs))


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
