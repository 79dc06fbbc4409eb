from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from flambeau.config import ServeConfig
from flambeau.errors import ConfigError
from flambeau.key_file import KeyFile, Tokens
from flambeau.testing import Fault, FaultyDisk
from flambeau.tokens import KeyRing, Role, Verdict


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    before = os.umask(0)
    try:
        KeyFile(path).write({"API": {"key": "k"}})
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert json.loads(path.read_text()) == {"API": {"key": "k"}}


def test_it_is_never_readable_by_others_and_never_half_written(tmp_path: Path) -> None:
    path, done = tmp_path / "keys.json", threading.Event()
    file = KeyFile(path)
    document = {"API": {"key": "k" * 2000}}
    file.write(document)
    modes: set[int] = set()

    def watch() -> None:
        while not done.is_set():
            for entry in list(tmp_path.iterdir()):
                with suppress(FileNotFoundError):  # replaced while we looked
                    modes.add(mode(entry))
            assert json.loads(path.read_text()) == document

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        file.write(document)
    done.set()
    watcher.join()
    assert modes == {0o600}
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_a_file_that_others_could_read_is_replaced_not_reused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{}")
    path.chmod(0o644)
    with path.open() as left_open:
        KeyFile(path).write({"API": {"key": "secret"}})
        assert left_open.read() == "{}"
    assert mode(path) == 0o600


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_a_link_or_a_directory_in_its_place_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys.json"
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match=f"keys.json is a {kind}; remove it"):
        KeyFile(path)


def test_a_link_that_is_planted_later_is_replaced_not_followed(tmp_path: Path) -> None:
    path, target = tmp_path / "keys.json", tmp_path / "target"
    target.write_text("untouched")
    file = KeyFile(path)
    path.symlink_to(target)
    file.write({"API": {"key": "k"}})
    assert not path.is_symlink()
    assert target.read_text() == "untouched"


def test_it_is_removed_unless_another_server_has_put_its_own_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, second = KeyFile(path), KeyFile(path)
    first.write({"API": {"key": "1"}})
    second.write({"API": {"key": "2"}})
    first.remove()
    assert json.loads(path.read_text()) == {"API": {"key": "2"}}
    second.remove()
    second.remove()
    assert not path.exists()


def config(path: Path, **changes: object) -> ServeConfig:
    return ServeConfig.load(environment={}, flags={"key_file": path, "token_auth": True, **changes})


def test_the_file_is_there_for_as_long_as_the_server(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with Tokens.opened(config(path, token_expiration_min=0.5)) as tokens:
        assert tokens is not None
        assert json.loads(path.read_text()) == tokens.keys.document()
    assert not path.exists()


def test_without_token_auth_there_is_no_file(tmp_path: Path) -> None:
    with Tokens.opened(config(tmp_path / "keys.json", token_auth=False)) as tokens:
        assert tokens is None
        assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "keys.json"
    with (
        pytest.raises(ConfigError, match=r"missing/keys\.json cannot be written: No such file"),
        Tokens.opened(config(path)),
    ):
        pass


def test_a_renewal_changes_one_key_in_the_file_and_ends_the_old_one(tmp_path: Path) -> None:
    with Tokens.opened(config(tmp_path / "keys.json")) as tokens:
        assert tokens is not None
        before = tokens.keys.document()
        asyncio.run(tokens.renew(Role.INFERENCE))
        after = json.loads((tmp_path / "keys.json").read_text())
        assert after["inference"]["key"] != before["inference"]["key"]
        assert (after["management"], after["API"]) == (before["management"], before["API"])
        old = before["inference"]["key"].encode()
        assert tokens.keys.check(old, Role.INFERENCE) is Verdict.UNKNOWN


def test_renewals_at_the_same_time_leave_one_key_and_that_one_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    async def story(tokens: Tokens) -> None:
        await asyncio.gather(*(tokens.renew(Role.MANAGEMENT) for _ in range(10)))

    with Tokens.opened(config(path)) as tokens:
        assert tokens is not None
        asyncio.run(story(tokens))
        assert json.loads(path.read_text()) == tokens.keys.document()
        key = tokens.keys.newest(Role.MANAGEMENT).text.encode()
        assert tokens.keys.check(key, Role.MANAGEMENT) is Verdict.VALID


def test_a_renewal_that_cannot_be_written_leaves_the_old_key(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    directory.mkdir()
    file = KeyFile(directory / "keys.json")
    tokens = Tokens(KeyRing(lifetime_s=60), file)
    old = tokens.keys.newest(Role.INFERENCE)
    directory.rmdir()
    with pytest.raises(FileNotFoundError):
        asyncio.run(tokens.renew(Role.INFERENCE))
    assert tokens.keys.check(old.text.encode(), Role.INFERENCE) is Verdict.VALID
    assert tokens.keys.newest(Role.INFERENCE) is old


def test_it_is_json_that_people_can_read(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.write({"API": {"key": "k"}})
    assert file.path.read_text() == '{\n  "API": {\n    "key": "k"\n  }\n}\n'


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """At each step of it."""
    path, sound = tmp_path / "keys.json", FaultyDisk(1_000_000, Fault.NO_SPACE)
    KeyFile(path, disk=sound).write({"API": {"key": "old"}})
    before = path.read_bytes()
    assert sound.steps[-1] == "rename"
    for step in range(1, len(sound.steps) + 1):
        with pytest.raises(OSError, match="No space left"):
            KeyFile(path, disk=FaultyDisk(step, Fault.NO_SPACE)).write({"API": {"key": "new"}})
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_what_was_never_written_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    file = KeyFile(path)
    path.write_text("another server's")
    file.remove()
    assert path.read_text() == "another server's"


def test_it_stays_the_same_file_when_the_directory_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = KeyFile(Path("keys.json"))
    monkeypatch.chdir("/")
    file.write({})
    assert file.path == tmp_path / "keys.json"
    assert file.path.is_file()


def test_keys_end_after_the_minutes_of_the_configuration(tmp_path: Path) -> None:
    before = time.time()
    with Tokens.opened(config(tmp_path / "keys.json", token_expiration_min=0.5)) as tokens:
        assert tokens is not None
        ends_at = tokens.keys.newest(Role.INFERENCE).ends_at
        assert ends_at is not None
        assert before + 30 <= ends_at <= time.time() + 30


def test_that_keys_are_asked_for_or_were_renewed_is_logged_without_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flambeau.key_file")
    path = tmp_path / "keys.json"
    with Tokens.opened(config(path)) as tokens:
        assert tokens is not None
        asyncio.run(tokens.renew(Role.MANAGEMENT))
        text = tokens.keys.newest(Role.MANAGEMENT).text
    asked, renewed = (vars(record) for record in caplog.records)
    assert caplog.messages == ["tokens are asked for", "a token was renewed"]
    assert (asked["key_file"], renewed["role"]) == (str(path), "management")
    assert text not in str(asked) + str(renewed)


def test_a_renewal_goes_on_when_its_caller_leaves(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    async def story(tokens: Tokens) -> None:
        renewal = asyncio.ensure_future(tokens.renew(Role.INFERENCE))
        await asyncio.sleep(0)
        renewal.cancel()
        await tokens.renew(Role.MANAGEMENT)  # which comes after it

    with Tokens.opened(config(path)) as tokens:
        assert tokens is not None
        old = tokens.keys.newest(Role.INFERENCE).text.encode()
        asyncio.run(story(tokens))
        assert tokens.keys.check(old, Role.INFERENCE) is Verdict.UNKNOWN
        assert json.loads(path.read_text()) == tokens.keys.document()
