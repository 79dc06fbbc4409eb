"""Ed25519 keys in PEM files, and what they sign: the list of an archive's files.

A key is called by the SHA-256 of its 32 public bytes. What the signatures are worth is decided in
`signing.py`. The library takes tens of milliseconds to import, so only those who use keys do.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flambeau.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PREFIX = b"flambeau archive files 1\n"  # else a signature could be taken for one of something else


def read_public_key(path: Path) -> tuple[str, bytes]:
    """A public key's id and its 32 bytes.

    Raises:
        ConfigError: There is none in the file.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # slow to import
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is no public key in PEM ({error}); give the .pub file that `flambeau archive "
            "keygen` wrote"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} is a key of another kind than Ed25519; make one with keygen")
    raw = key.public_bytes_raw()
    return key_id(raw), raw


def key_id(public: bytes) -> str:
    """What a key is called: the SHA-256 of its 32 public bytes, in hexadecimal."""
    return hashlib.sha256(public).hexdigest()


class SigningKey:
    """A private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public)

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """The key in a PEM file without a passphrase.

        Raises:
            ConfigError: There is none in it.
        """
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # slow to import
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
            Ed25519PrivateKey,
        )
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            load_pem_private_key,
        )

        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, TypeError, ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"{path} is no private key in PEM without a passphrase ({error}); make one with "
                "`flambeau archive keygen`"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} is a key of another kind than Ed25519; make one with keygen")
        return cls(key)

    def sign(self, file_list: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key.sign(_PREFIX + file_list)


def make_key(path: Path) -> str:
    """Make a key pair: `path`, which only its owner may read, and beside it `path` with `.pub`.

    Returns:
        The key's id.

    Raises:
        ConfigError: One of the files exists or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  # slow to import
        Ed25519PrivateKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(f"{path.stem}.pub")
    try:
        if beside.exists():
            raise FileExistsError(f"{beside} exists")
        for file, mode, text in ((path, 0o600, private), (beside, 0o644, public)):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with open(descriptor, "wb") as opened:  # noqa: PTH123  # of a descriptor
                opened.write(text)
    except OSError as error:
        raise ConfigError(f"the key cannot be written: {error}; give another name") from error
    return SigningKey(key).key_id


def is_valid(public: bytes, signature: bytes, file_list: bytes) -> bool:
    """Whether this key has signed this list of files."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # slow to import
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _PREFIX + file_list)
    except InvalidSignature:
        return False
    return True
