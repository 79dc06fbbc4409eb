"""Certificates from Java keystores, taken out by the `openssl` program for as long as we serve."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from flambeau.config import ServeConfig
from flambeau.errors import ConfigError

_VARIABLE = "FLAMBEAU_KEYSTORE_PASSWORD"  # openssl reads it: the command line is no secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Keystore:
    """A certificate and its key in one file with a password, as Java keeps them."""

    path: Path
    password: str
    kind: str

    def __repr__(self) -> str:
        return f"Keystore({str(self.path)!r})"


@contextmanager
def with_certificate(config: ServeConfig, keystore: Keystore | None) -> Generator[ServeConfig]:
    """The settings with the keystore's certificate and key as PEM files, until the block ends.

    Raises:
        ConfigError: The keystore is missing, of another kind than PKCS12, or has another password.
    """
    if keystore is None:
        yield config
        return
    _check(keystore)
    with tempfile.TemporaryDirectory(prefix="flambeau-keystore-") as directory:
        certificate, key = Path(directory, "certificate.pem"), Path(directory, "key.pem")
        certificate.write_bytes(
            # a server's own certificate comes before those that vouch for it
            _taken(keystore, "-clcerts", "-nokeys") + _taken(keystore, "-cacerts", "-nokeys")
        )
        key.touch(mode=0o600)
        key.write_bytes(_taken(keystore, "-nocerts", "-nodes"))
        yield replace(config, certificate_file=certificate, private_key_file=key)


def _check(keystore: Keystore) -> None:
    if not keystore.path.is_file():
        raise ConfigError(f"keystore {keystore.path} is not there; give a PKCS12 file")
    if keystore.kind.upper() not in {"PKCS12", "P12"}:
        raise ConfigError(
            f"keystore_type is {keystore.kind}, and only PKCS12 can be read; convert it with: "
            f"keytool -importkeystore -srckeystore {keystore.path} -destkeystore keystore.p12 "
            "-deststoretype PKCS12"
        )


def _taken(keystore: Keystore, *wanted: str) -> bytes:
    """What `openssl pkcs12` gives; older files need its legacy algorithms."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ConfigError(
            f"keystore {keystore.path} needs the openssl program, which is not here; give "
            "certificate_file and private_key_file instead, made elsewhere with: "
            "openssl pkcs12 -in KEYSTORE -nodes"
        )
    command = [openssl, "pkcs12", "-in", str(keystore.path), "-passin", f"env:{_VARIABLE}", *wanted]
    environment = os.environ | {_VARIABLE: keystore.password}
    for flags in ([], ["-legacy"]):
        done = subprocess.run([*command, *flags], capture_output=True, env=environment, check=False)
        if done.returncode == 0:
            return done.stdout
    raise ConfigError(
        f"keystore {keystore.path} cannot be read: {done.stderr.decode().strip()}; is "
        "keystore_pass right?"
    )
