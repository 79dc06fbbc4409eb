from __future__ import annotations

from datetime import datetime, timezone

import pytest

from flambeau.errors import ConfigError
from flambeau.s3_signing import Credentials, signed_headers

# the example "GET Object" of the S3 manual's page on the Authorization header
CREDENTIALS = Credentials(
    access_key_id="AKIAIOSFODNN7EXAMPLE",
    secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    region="us-east-1",
)
NOW = datetime(2013, 5, 24, tzinfo=timezone.utc)


def test_the_manuals_example_gives_the_manuals_signature() -> None:
    headers = signed_headers(
        "https://examplebucket.s3.amazonaws.com/test.txt",
        credentials=CREDENTIALS,
        now=NOW,
        headers={"Range": "bytes=0-9"},
    )
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 "
        "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    assert headers["x-amz-date"] == "20130524T000000Z"


def test_the_query_is_signed_in_order() -> None:
    """The manual's example "Get Bucket (List Objects)"."""
    headers = signed_headers(
        "https://examplebucket.s3.amazonaws.com/?prefix=J&max-keys=2",
        credentials=CREDENTIALS,
        now=NOW,
    )
    signature = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    assert headers["authorization"].endswith(f"Signature={signature}")


def test_temporary_credentials_send_their_token() -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_SESSION_TOKEN": "token",
    }
    credentials = Credentials.from_environment(environment)
    headers = signed_headers("https://b.s3.amazonaws.com/m.mar", credentials=credentials, now=NOW)
    assert headers["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in headers["authorization"]
    assert "secret" not in repr(credentials)
    assert "token'" not in repr(credentials)


def test_missing_credentials_are_named() -> None:
    with pytest.raises(ConfigError, match=r"set AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION$"):
        Credentials.from_environment({"AWS_ACCESS_KEY_ID": "key", "AWS_DEFAULT_REGION": ""})
