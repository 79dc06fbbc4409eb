from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from flambeau.config import ServeConfig
from flambeau.errors import ConfigError
from flambeau.tls import client_name, tls_context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`certificate.pem`, its `key.pem`, the same key as `locked.pem`, and a key `other.pem`."""
    directory = tmp_path_factory.mktemp("certificate")
    for name in ("key", "other"):
        openssl(directory, "ecparam", "-name", "prime256v1", "-genkey", "-out", f"{name}.pem")
    openssl(
        directory, "ec", "-in", "key.pem", "-aes256", "-passout", "pass:x", "-out", "locked.pem"
    )
    subject = ["-subj", "/CN=test", "-out", "certificate.pem"]
    openssl(directory, "req", "-x509", "-new", "-key", "key.pem", *subject)
    (directory / "garbage.pem").write_text("no certificate")
    return directory


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def context_with(files: Path, certificate: str, key: str) -> ssl.SSLContext:
    return tls_context(
        ServeConfig(certificate_file=files / certificate, private_key_file=files / key)
    )


def test_a_certificate_and_its_key_are_used(files: Path) -> None:
    context = context_with(files, "certificate.pem", "key.pem")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats()["x509"] == 0  # clients need none


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        ("gone.pem", "key.pem"),
        ("certificate.pem", "gone.pem"),
        ("garbage.pem", "key.pem"),
        ("certificate.pem", "garbage.pem"),
        ("certificate.pem", "other.pem"),
        ("certificate.pem", "locked.pem"),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_asked(
    files: Path, certificate: str, key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{certificate} .*{key} cannot be used"):
        context_with(files, certificate, key)


def test_without_a_certificate_or_openssl_the_next_step_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs certificate_file and private_key_file"):
        tls_context(ServeConfig())


def test_a_client_is_told_by_its_certificate() -> None:
    subject = ((("countryName", "FR"),), (("commonName", 'a, "b"'), ("serialNumber", "7")))
    transport = asyncio.BaseTransport({"peercert": {"subject": subject}})
    assert client_name(transport) == 'CN=a\\, \\"b\\"+serialNumber=7,C=FR'
    nobodies: list[dict[str, object]] = [{"peercert": None}, {"peercert": {}}, {}]
    for nobody in nobodies:
        assert client_name(asyncio.BaseTransport(nobody)) == ""
