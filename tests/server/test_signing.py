"""What is thought of signatures, and why; `test_archive_signing.py` has whole archives."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flambeau.archive_keys import SigningKey, make_key
from flambeau.config import SignaturePolicy
from flambeau.errors import ArchiveError, ConfigError
from flambeau.signing import (
    UNCHECKED,
    Trust,
    Verdict,
    read_signatures,
    read_trust,
    signatures_text,
)

FILE_LIST = b'{"files":{},"format":1}'
PATH = "MAR-INF/files.signatures.json"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[SigningKey]:
    """Three keys, by their ids."""
    directory = tmp_path_factory.mktemp("keys")
    for name in "abc":
        make_key(directory / f"{name}.pem")
    made = [SigningKey.read(directory / f"{name}.pem") for name in "abc"]
    return sorted(made, key=lambda key: key.key_id)


def signed_by(*keys: SigningKey, file_list: bytes = FILE_LIST) -> bytes:
    return signatures_text({key.key_id: key.sign(file_list) for key in keys})


def trust_in(
    *keys: SigningKey,
    revoked: tuple[SigningKey, ...] = (),
    policy: SignaturePolicy = SignaturePolicy.WARN,
) -> Trust:
    return Trust(
        policy=policy,
        keys={key.key_id: key.public for key in keys},
        revoked=frozenset(key.key_id for key in revoked),
    )


# verdicts


def test_who_is_trusted_and_has_signed_is_believed(keys: list[SigningKey]) -> None:
    first, second, stranger = keys
    signatures = signed_by(first, second, stranger)
    verdict = trust_in(first, second).judge(FILE_LIST, signatures)
    assert verdict == Verdict(status="trusted", keys=(first.key_id, second.key_id))
    assert verdict.is_trusted
    assert str(verdict) == f"signed by {first.key_id[:16]}, {second.key_id[:16]}"
    assert trust_in(first, second, revoked=(first,)).judge(FILE_LIST, signatures).keys == (
        second.key_id,
    )


def test_a_trusted_key_whose_signature_does_not_fit_is_worse_than_none(
    keys: list[SigningKey],
) -> None:
    first, second, _ = keys
    signatures = signatures_text(
        {first.key_id: first.sign(FILE_LIST), second.key_id: second.sign(b"another list")}
    )
    verdict = trust_in(first, second).judge(FILE_LIST, signatures)
    assert (verdict.status, verdict.keys) == ("untrusted", (second.key_id,))
    assert verdict.reason == (
        f"the signature of key {second.key_id} does not fit the list of files"
    )
    assert not verdict.is_trusted
    assert trust_in(first).judge(FILE_LIST, signatures).is_trusted  # a stranger's is not looked at


def test_who_else_has_signed_is_named(keys: list[SigningKey]) -> None:
    first, second, third = keys
    trust = trust_in(third, revoked=(second,))
    verdict = trust.judge(FILE_LIST, signed_by(first, second))
    assert verdict == Verdict(
        status="untrusted",
        keys=(first.key_id, second.key_id),
        reason=f"key {first.key_id} is not trusted; key {second.key_id} is revoked",
    )
    assert str(verdict) == f"untrusted: {verdict.reason}"


def test_a_trusted_key_that_is_revoked_is_not_believed(keys: list[SigningKey]) -> None:
    verdict = trust_in(keys[0], revoked=(keys[0],)).judge(FILE_LIST, signed_by(keys[0]))
    assert verdict.reason == f"key {keys[0].key_id} is revoked"


def test_what_nobody_has_signed_is_untrusted(keys: list[SigningKey]) -> None:
    verdict = trust_in(keys[0]).judge(FILE_LIST, signatures_text({}))
    assert verdict == Verdict(status="untrusted", reason="nobody signed it")


@pytest.mark.parametrize("missing", ["list", "signatures", "both"])
def test_what_has_no_list_or_no_signatures_is_unsigned(
    keys: list[SigningKey], missing: str
) -> None:
    file_list = FILE_LIST if missing == "signatures" else None
    signatures = signed_by(keys[0]) if missing == "list" else None
    verdict = trust_in(keys[0]).judge(file_list, signatures)
    assert verdict == Verdict(status="unsigned", reason=f"it has no {PATH}")
    assert str(verdict) == f"unsigned: it has no {PATH}"


def test_signatures_that_cannot_be_read_are_untrusted_with_the_reason(
    keys: list[SigningKey],
) -> None:
    verdict = trust_in(keys[0]).judge(FILE_LIST, b"{")
    assert (verdict.status, verdict.keys) == ("untrusted", ())
    assert verdict.reason.startswith(f"{PATH} is damaged (")


def test_each_policy_does_what_it_says(keys: list[SigningKey]) -> None:
    first, stranger, _ = keys
    off, warn, require = (
        trust_in(first, policy=policy)
        for policy in (SignaturePolicy.OFF, SignaturePolicy.WARN, SignaturePolicy.REQUIRE)
    )
    good, bad = signed_by(first), signed_by(stranger)
    assert off.judge(None, None) is off.judge(FILE_LIST, bad) is UNCHECKED
    assert str(UNCHECKED) == "unchecked"
    assert not UNCHECKED.is_trusted
    assert warn.judge(FILE_LIST, bad).status == "untrusted"
    assert require.judge(FILE_LIST, good).status == warn.judge(FILE_LIST, good).status == "trusted"
    with pytest.raises(ArchiveError) as caught:
        require.judge(FILE_LIST, bad)
    assert str(caught.value) == (
        f"it is not signed by a trusted key: key {stranger.key_id} is not trusted; sign it with "
        "`flambeau archive sign`, or add the signer's public key to trusted_keys"
    )


# the text


def document(changes: Mapping[str, object], *, times: int = 1) -> dict[str, object]:
    entry = {"algorithm": "ed25519", "key": "k", "signature": base64.b64encode(bytes(64)).decode()}
    return {"format": 1, "signatures": [{**entry, **changes}] * times}


def text(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def refused(signatures: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        read_signatures(signatures)
    return str(caught.value)


def test_signatures_are_written_in_one_form_and_read_again() -> None:
    signatures = {"b": b"2" * 64, "a": b"1" * 64}
    assert read_signatures(signatures_text(signatures)) == signatures
    assert list(read_signatures(signatures_text(signatures))) == ["a", "b"]
    assert signatures_text({"k": bytes(64)}) == text(document({}))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"signature": base64.b64encode(bytes(63)).decode()},
            "a signature has 63 bytes and not 64",
        ),
        (
            {"signature": base64.b64encode(bytes(65)).decode()},
            "a signature has 65 bytes and not 64",
        ),
        ({"signature": "AAA"}, "Incorrect padding"),
        ({"signature": "!" + base64.b64encode(bytes(64)).decode()}, ""),
        ({"signature": 1}, ""),
    ],
)
def test_a_signature_that_is_none_is_damage(changes: dict[str, object], why: str) -> None:
    said = refused(text(document(changes)))
    assert said.startswith(f"{PATH} is damaged ({why}")
    assert said.endswith("); copy or sign the archive again")


@pytest.mark.parametrize(
    "entries", [[{"algorithm": "ed25519", "key": "k"}], [{}], ["text"], 5, None, [[]]]
)
def test_a_list_that_is_none_is_damage(entries: object) -> None:
    said = refused(text({"format": 1, "signatures": entries}))
    assert said.startswith(f"{PATH} is damaged (")


def test_what_has_more_in_it_than_signatures_is_refused() -> None:
    for more in (
        document({"algorithm": "rsa"}),
        document({"remark": "x"}),
        {**document({}), "remark": "x"},
        document({}, times=2),
    ):
        assert refused(text(more)) == (
            f"{PATH} has more in it than signatures; sign the archive again"
        )


def test_another_format_is_told() -> None:
    assert f"{PATH} has format 2, and this version reads 1" in refused(
        text({"format": 2, "signatures": []})
    )


# settings


def trust_of(
    *paths: Path, policy: SignaturePolicy = SignaturePolicy.REQUIRE, revoked: tuple[str, ...] = ()
) -> Trust:
    return read_trust(policy, trusted_keys=[str(path) for path in paths], revoked_keys=revoked)


def test_keys_come_from_files_of_any_name_and_from_directories(tmp_path: Path) -> None:
    (directory := tmp_path / "keys").mkdir()
    (directory / "deeper.pub").mkdir()
    ids = [make_key(tmp_path / f"{name}.pem") for name in "abc"]
    (tmp_path / "a.pub").rename(directory / "a.pub")
    (tmp_path / "b.pub").rename(directory / "b.pem")
    shutil.copy(tmp_path / "c.pub", directory / "c.txt")
    assert trust_of(directory).keys.keys() == set(ids[:2])
    (other := tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "c.pub", other)
    assert trust_of(directory, other).keys.keys() == set(ids)
    trust = trust_of(directory, directory / "c.txt", revoked=(ids[0],))
    assert trust.keys.keys() == set(ids)
    assert (trust.policy, trust.revoked) == (SignaturePolicy.REQUIRE, frozenset(ids[:1]))
    assert trust.keys[ids[2]] == SigningKey.read(tmp_path / "c.pem").public


@pytest.mark.parametrize("policy", [SignaturePolicy.WARN, SignaturePolicy.REQUIRE])
def test_a_policy_without_a_key_to_believe_is_refused(
    tmp_path: Path, policy: SignaturePolicy
) -> None:
    key = make_key(tmp_path / "a.pem")
    asked: list[Callable[[], Trust]] = [
        lambda: trust_of(policy=policy),
        lambda: trust_of(tmp_path / "a.pub", policy=policy, revoked=(key,)),
    ]
    for ask in asked:
        with pytest.raises(ConfigError) as caught:
            ask()
        assert str(caught.value) == (
            f"signatures is {policy.value} and trusted_keys has no key; give the files or "
            "directories of public keys that may sign"
        )


def test_without_signatures_no_key_is_needed() -> None:
    assert trust_of(policy=SignaturePolicy.OFF, revoked=("0" * 64,)).keys == {}


@pytest.mark.parametrize("revoked", ["", "0" * 63, "0" * 65, "g" * 64, "A" * 64, "X" * 64])
def test_what_is_no_key_cannot_be_revoked(revoked: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trust_of(policy=SignaturePolicy.OFF, revoked=(revoked,))
    assert str(caught.value) == (
        f"revoked_keys has {revoked!r}; give the 64 digits that `flambeau archive keygen` and "
        "`flambeau archive show` print as the key"
    )
