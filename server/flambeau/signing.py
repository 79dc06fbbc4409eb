"""Who vouches for an archive: Ed25519 signatures over its list of files, and whom we believe.

What is signed is `MAR-INF/files.json` (`file_digests.py`), so a signature speaks of every file's
content and of nothing else. Several keys may sign one archive. A key is called by the SHA-256 of
its 32 public bytes. The archive is held against the list where it is unpacked (`archive.py`), and
signed in `archive_signing.py`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flambeau.archive_keys import is_valid, read_public_key
from flambeau.config import SignaturePolicy
from flambeau.errors import ArchiveError, ConfigError
from flambeau.file_digests import SIGNATURES_PATH, canonical_json, parse_canonical

_FORMAT = 1
_ALGORITHM = "ed25519"
_KEY_SUFFIXES = {".pem", ".pub"}
_SIGNATURE_BYTES = 64
_SHORT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is known of an archive's signatures.

    Attributes:
        status: `trusted`, `untrusted`, `unsigned`, or `unchecked` where the policy is off.
        keys: Ids of the keys that decided: those that are trusted, or else those that signed.
        reason: Why it is not trusted; empty otherwise.
    """

    status: str
    keys: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_trusted(self) -> bool:
        """Whether a key that we trust has signed the files."""
        return self.status == "trusted"

    def __str__(self) -> str:
        if self.is_trusted:
            return f"signed by {', '.join(key[:_SHORT] for key in self.keys)}"
        return f"{self.status}: {self.reason}" if self.reason else self.status


UNCHECKED = Verdict(status="unchecked")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """Whom the server believes, and what it does with what others sign.

    Attributes:
        policy: Whether signatures are looked at, and whether one is needed.
        keys: The public bytes of trusted keys, by id.
        revoked: Ids of keys that are not believed any more, wherever they are.
    """

    policy: SignaturePolicy = SignaturePolicy.OFF
    keys: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    revoked: frozenset[str] = frozenset()

    def judge(self, file_list: bytes | None, signatures: bytes | None) -> Verdict:
        """What to think of an archive with this list of files and these signatures.

        Raises:
            ArchiveError: The policy asks for a signature that is not there; the message says what
                is there and what to do.
        """
        if self.policy is SignaturePolicy.OFF:
            return UNCHECKED
        verdict = self._judge(file_list, signatures)
        if self.policy is SignaturePolicy.REQUIRE and not verdict.is_trusted:
            raise ArchiveError(
                f"it is not signed by a trusted key: {verdict.reason}; sign it with `flambeau "
                "archive sign`, or add the signer's public key to trusted_keys"
            )
        return verdict

    def _judge(self, file_list: bytes | None, signatures: bytes | None) -> Verdict:
        if file_list is None or signatures is None:
            return Verdict(status="unsigned", reason=f"it has no {SIGNATURES_PATH}")
        try:
            given = read_signatures(signatures)
        except ArchiveError as error:
            return Verdict(status="untrusted", reason=str(error))
        believed = [key for key in given if key in self.keys and key not in self.revoked]
        for key in believed:
            if not is_valid(self.keys[key], given[key], file_list):
                return Verdict(
                    status="untrusted",
                    keys=(key,),
                    reason=f"the signature of key {key} does not fit the list of files",
                )
        if believed:
            return Verdict(status="trusted", keys=tuple(believed))
        named = "; ".join(
            f"key {key} is {'revoked' if key in self.revoked else 'not trusted'}" for key in given
        )
        return Verdict(status="untrusted", keys=tuple(given), reason=named or "nobody signed it")


def read_trust(
    policy: SignaturePolicy, *, trusted_keys: Sequence[str], revoked_keys: Sequence[str]
) -> Trust:
    """Read the trusted keys from disk.

    Args:
        policy: What is done with the verdict.
        trusted_keys: Files with a public key in PEM, and directories of `.pem` and `.pub` files.
        revoked_keys: Ids of keys.

    Raises:
        ConfigError: A file is no Ed25519 public key, an id is none, or signatures are asked for and
            there is no key that is trusted.
    """
    keys = dict(read_public_key(path) for path in _key_files(trusted_keys))
    for key in revoked_keys:
        if len(key) != 64 or set(key) - set("0123456789abcdef"):
            raise ConfigError(
                f"revoked_keys has {key!r}; give the 64 digits that `flambeau archive keygen` and "
                "`flambeau archive show` print as the key"
            )
    if policy is not SignaturePolicy.OFF and not keys.keys() - set(revoked_keys):
        raise ConfigError(
            f"signatures is {policy.value} and trusted_keys has no key; give the files or "
            "directories of public keys that may sign"
        )
    return Trust(policy=policy, keys=keys, revoked=frozenset(revoked_keys))


def _key_files(paths: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix in _KEY_SUFFIXES and p.is_file())
        else:
            found.append(path)
    return found


def signatures_text(signatures: Mapping[str, bytes]) -> bytes:
    """`MAR-INF/files.signatures.json`, of signatures by the ids of their keys."""
    entries = [
        {"algorithm": _ALGORITHM, "key": key, "signature": base64.b64encode(value).decode()}
        for key, value in sorted(signatures.items())
    ]
    return canonical_json({"format": _FORMAT, "signatures": entries})


def read_signatures(text: bytes) -> dict[str, bytes]:
    """Signatures by the ids of their keys; whether they are right is not looked at.

    Raises:
        ArchiveError: The text is not what `signatures_text` writes.
    """
    document = parse_canonical(text, SIGNATURES_PATH, file_format=_FORMAT)
    signatures: dict[str, bytes] = {}
    try:
        for entry in document["signatures"]:
            if entry["algorithm"] == _ALGORITHM:
                value = base64.b64decode(entry["signature"], validate=True)
                if len(value) != _SIGNATURE_BYTES:
                    raise ValueError(f"a signature has {len(value)} bytes and not 64")  # noqa: TRY301  # told with the others
                signatures[str(entry["key"])] = value
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ArchiveError(
            f"{SIGNATURES_PATH} is damaged ({error}); copy or sign the archive again"
        ) from error
    if signatures_text(signatures) != text:
        raise ArchiveError(
            f"{SIGNATURES_PATH} has more in it than signatures; sign the archive again"
        )
    return signatures
