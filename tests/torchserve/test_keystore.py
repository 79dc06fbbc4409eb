from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from flambeau.config import ServeConfig
from flambeau.errors import ConfigError
from flambeau.torchserve.keystore import Keystore, with_certificate


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PKCS12 file with the password `changeit`."""
    directory = tmp_path_factory.mktemp("keystore")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    made = directory / "keystore.p12"
    openssl("req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=test",
            "-keyout", str(key), "-out", str(certificate))  # fmt: skip
    openssl("pkcs12", "-export", "-in", str(certificate), "-inkey", str(key),
            "-out", str(made), "-passout", "pass:changeit")  # fmt: skip
    return made


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def test_a_keystore_becomes_pem_files_for_as_long_as_they_are_needed(keystore: Path) -> None:
    given = Keystore(path=keystore, password="changeit", kind="PKCS12")
    with with_certificate(ServeConfig(), given) as config:
        assert config.certificate_file is not None
        assert config.private_key_file is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.certificate_file, config.private_key_file)
        assert config.private_key_file.stat().st_mode & 0o077 == 0
    assert not config.certificate_file.parent.exists()


def test_without_a_keystore_the_settings_stay() -> None:
    config = ServeConfig()
    with with_certificate(config, None) as same:
        assert same is config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"password": "wrong"}, "keystore_pass right"),
        ({"path": Path("gone.p12")}, "keystore gone.p12 is not there"),
        ({"kind": "JKS"}, "keytool -importkeystore"),
    ],
)
def test_a_keystore_that_cannot_be_used_is_named(
    keystore: Path, change: dict[str, object], message: str
) -> None:
    values: dict[str, object] = {"path": keystore, "password": "changeit", "kind": "pkcs12"}
    given = Keystore(**(values | change))  # type: ignore[arg-type]  # each has its field's type
    with pytest.raises(ConfigError, match=message), with_certificate(ServeConfig(), given):
        pass
