"""Archives of the `faulty` model, good ones and bad ones."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from flambeau.archive_keys import SigningKey, make_key
from flambeau.archive_signing import sign_archive
from flambeau.file_digests import SIGNATURES_PATH
from flambeau.parity import Samples, Tolerance
from flambeau.signature import SAMPLES_PATH
from tests.integration.archives import service


def faulty(store: Path, name: str, *, version: str = "1.0", yaml: str = "") -> Path:
    """f(x) = 2 x + nonce in batches of up to 8, with samples of that."""
    yaml = "batchSize: 8\nmaxBatchDelay: 5\n" + yaml
    return service(store, "faulty", name=name, version=version, yaml=yaml, files=_samples(2.0))


def faulty_with(
    store: Path, name: str, *, version: str = "1.0", yaml: str = "", **options: str | bool
) -> Path:
    """The same with options of the handler."""
    lines = "".join(f"  {key}: {str(value).lower()}\n" if isinstance(value, bool)
                    else f"  {key}: {value}\n" for key, value in options.items())  # fmt: skip
    return faulty(store, name, version=version, yaml=f"{yaml}handler:\n{lines}")


@dataclass(frozen=True)
class BadVersion:
    """A version that must never answer.

    Attributes:
        kind: What is wrong with it.
        archive: Its file.
        reason: What the server must say of it.
    """

    kind: str
    archive: Path
    reason: str


def bad_versions(store: Path, name: str, *, startup_timeout_s: int) -> list[BadVersion]:
    """Seven versions of a model, each bad in its own way."""

    def loading(how: str, number: int, yaml: str = "") -> Path:
        return faulty_with(store, name, version=f"{number}.0", yaml=yaml, load=how)

    hang = f"startupTimeout: {startup_timeout_s}\n"
    wrong = service(store, "faulty", name=name, version="17.0", files=_samples(3.0))
    return [
        BadVersion("no archive", _junk(store, name), "not a"),
        BadVersion("cut off", _cut_off(store, name), "zip"),
        BadVersion("init raises", loading("raise", 13), "the weights went missing"),
        BadVersion("init exits", loading("exit", 14), "exit code 3"),
        BadVersion("init segfaults", loading("segfault", 15), "SIGSEGV"),
        BadVersion("init hangs", loading("hang", 16, hang), "startup_timeout"),
        BadVersion("wrong answers", wrong, "does not compute what was recorded"),
    ]


def badly_signed_versions(store: Path, name: str, *, key: SigningKey) -> list[BadVersion]:
    """Four versions that a server which believes only `key` must not serve."""
    stranger = store / f"{name}-stranger.pem"
    make_key(stranger)
    strange = faulty(store, name, version="22.0")
    sign_archive(strange, SigningKey.read(stranger))
    return [
        BadVersion("unsigned", faulty(store, name, version="21.0"), "is not signed"),
        BadVersion("signed by a stranger", strange, "is not trusted"),
        BadVersion("another's signature", _resigned(store, name, key), "does not fit"),
        BadVersion("changed", _changed(store, name, key), "has SHA-256"),
    ]


def _resigned(store: Path, name: str, key: SigningKey) -> Path:
    """With the signature of another version."""
    found = _signed_directory(store, name, "23.0", key)
    other = _signed_directory(store, name, "24.0", key)
    (found / SIGNATURES_PATH).write_bytes((other / SIGNATURES_PATH).read_bytes())
    return found


def _changed(store: Path, name: str, key: SigningKey) -> Path:
    """With one letter of a file that is another one now."""
    found = _signed_directory(store, name, "25.0", key)
    (handler,) = found.glob("*.py")
    handler.write_bytes(handler.read_bytes().replace(b"nonce", b"Nonce", 1))
    return found


def _signed_directory(store: Path, name: str, version: str, key: SigningKey) -> Path:
    """An archive as a directory, so that its files can be changed one by one."""
    path = faulty(store, name, version=version)
    sign_archive(path, key)
    directory = path.with_suffix("")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(directory)
    return directory


def _junk(store: Path, name: str) -> Path:
    path = store / f"{name}-junk.mar"
    path.write_bytes(b"no archive at all " * 100)
    return path


def _cut_off(store: Path, name: str) -> Path:
    whole = faulty(store, name, version="12.0")
    whole.write_bytes(whole.read_bytes()[:-100])
    return whole


def _samples(factor: float) -> dict[str, bytes]:
    """Samples of f(x) = factor x + nonce, as the archive's file."""
    x_B = torch.tensor([1.0, -5.0, 3.0], dtype=torch.float64)
    nonce_B = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    samples = Samples(
        inputs=(x_B, nonce_B), outputs=(factor * x_B + nonce_B,), tolerance=Tolerance()
    )
    return {SAMPLES_PATH: samples.to_safetensors()}
