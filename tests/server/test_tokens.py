from __future__ import annotations

import base64
from datetime import datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flambeau.tokens import Key, KeyRing, Role, Verdict

HOUR_S = 3600.0
START_AT = 1_800_000_000.0


class Clocks:
    """Both clocks of one machine, moved by hand."""

    def __init__(self) -> None:
        self.wall_s = START_AT
        self.monotonic_s = 5.0

    def wall(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def pass_time(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


def make_ring(clocks: Clocks) -> KeyRing:
    return KeyRing(lifetime_s=HOUR_S, wall=clocks.wall, monotonic=clocks.monotonic)


def shown(key: Key) -> bytes:
    return key.text.encode()


def test_a_key_opens_its_own_role_only() -> None:
    ring = make_ring(Clocks())
    for mine in Role:
        for role in Role:
            expected = Verdict.VALID if role is mine else Verdict.OTHER_ROLE
            assert ring.check(shown(ring.newest(mine)), role) is expected


@pytest.mark.parametrize("wrong", [b"", b"x", b"A" * 43, b"A" * 70_000, b"\xff\x00"])
def test_anything_else_opens_nothing(wrong: bytes) -> None:
    ring = make_ring(Clocks())
    assert {ring.check(wrong, role) for role in Role} == {Verdict.UNKNOWN}


def test_a_part_of_a_key_or_more_than_a_key_opens_nothing() -> None:
    ring = make_ring(Clocks())
    key = shown(ring.newest(Role.INFERENCE))
    for wrong in (key[:-1], key + b"A", key.swapcase(), b" " + key):
        assert ring.check(wrong, Role.INFERENCE) is Verdict.UNKNOWN


def test_keys_are_32_random_bytes_in_url_safe_base64() -> None:
    keys = [make_ring(Clocks()).newest(role).text for role in Role for _ in range(20)]
    assert len(set(keys)) == len(keys)
    assert {len(base64.urlsafe_b64decode(key + "=")) for key in keys} == {32}


def test_a_key_ends_after_its_lifetime_except_the_one_that_renews() -> None:
    clocks = Clocks()
    ring = make_ring(clocks)
    keys = {role: shown(ring.newest(role)) for role in Role}
    clocks.pass_time(HOUR_S - 1)
    assert {ring.check(keys[role], role) for role in Role} == {Verdict.VALID}
    clocks.pass_time(1)
    assert ring.check(keys[Role.INFERENCE], Role.INFERENCE) is Verdict.UNKNOWN
    assert ring.check(keys[Role.MANAGEMENT], Role.INFERENCE) is Verdict.UNKNOWN
    assert ring.check(keys[Role.API], Role.API) is Verdict.VALID


def test_a_clock_that_is_set_back_does_not_make_a_key_last_longer() -> None:
    clocks = Clocks()
    ring = make_ring(clocks)
    key = shown(ring.newest(Role.INFERENCE))
    clocks.pass_time(HOUR_S / 2)
    clocks.wall_s -= 24 * HOUR_S
    assert ring.check(key, Role.INFERENCE) is Verdict.VALID
    clocks.pass_time(HOUR_S / 2)
    assert ring.check(key, Role.INFERENCE) is Verdict.UNKNOWN


def test_a_key_that_ended_while_the_machine_slept_does_not_come_back() -> None:
    clocks = Clocks()
    ring = make_ring(clocks)
    key = shown(ring.newest(Role.INFERENCE))
    clocks.wall_s += HOUR_S
    assert ring.check(key, Role.INFERENCE) is Verdict.UNKNOWN
    clocks.wall_s -= HOUR_S
    assert ring.check(key, Role.INFERENCE) is Verdict.UNKNOWN


def test_both_keys_open_while_a_renewal_is_under_way_and_one_afterwards() -> None:
    ring = make_ring(Clocks())
    old = ring.newest(Role.MANAGEMENT)
    new = ring.add(Role.MANAGEMENT)
    assert {ring.check(shown(key), Role.MANAGEMENT) for key in (old, new)} == {Verdict.VALID}
    ring.keep_only(new)
    assert ring.check(shown(old), Role.MANAGEMENT) is Verdict.UNKNOWN
    assert ring.check(shown(new), Role.MANAGEMENT) is Verdict.VALID


def test_a_renewal_that_fails_leaves_the_old_key() -> None:
    ring = make_ring(Clocks())
    old = ring.newest(Role.INFERENCE)
    new = ring.add(Role.INFERENCE)
    ring.keep_only(old)
    assert ring.check(shown(old), Role.INFERENCE) is Verdict.VALID
    assert ring.check(shown(new), Role.INFERENCE) is Verdict.UNKNOWN
    assert ring.document()["inference"]["key"] == old.text


def test_the_document_has_torchserves_shape() -> None:
    ring = make_ring(Clocks())
    document = ring.document()
    assert list(document) == ["management", "inference", "API"]
    assert list(document["management"]) == ["key", "expiration time"]
    assert list(document["API"]) == ["key"]
    end = document["inference"]["expiration time"]
    assert end.endswith("Z")
    assert datetime.fromisoformat(end[:-1] + "+00:00").timestamp() == START_AT + HOUR_S


def test_a_key_is_not_in_its_own_description() -> None:
    key = make_ring(Clocks()).newest(Role.API)
    assert key.text not in f"{key} {key!r}"
    assert str(key.digest) not in repr(key)


class Renewals(RuleBasedStateMachine):
    """Any order of renewals and clock changes, against a dict of what is valid."""

    def __init__(self) -> None:
        super().__init__()
        self.clocks = Clocks()
        self.ring = make_ring(self.clocks)
        self.ended: list[Key] = []
        # by role: the key, and seconds it has left by the two clocks
        self.current: dict[Role, tuple[Key, float, float]] = {
            role: (self.ring.newest(role), HOUR_S, HOUR_S) for role in Role
        }

    @rule(seconds=st.floats(0, HOUR_S))
    def time_passes(self, seconds: float) -> None:
        self.clocks.pass_time(seconds)
        self._count_down(seconds, seconds)

    @rule(seconds=st.floats(-2 * HOUR_S, 2 * HOUR_S))
    def somebody_sets_the_clock(self, seconds: float) -> None:
        self.clocks.wall_s += seconds
        self._count_down(seconds, 0)

    @rule(role=st.sampled_from([Role.MANAGEMENT, Role.INFERENCE]))
    def renew(self, role: Role) -> None:
        new = self.ring.add(role)
        self.ring.keep_only(new)
        if role in self.current:
            self.ended.append(self.current[role][0])
        self.current[role] = (new, HOUR_S, HOUR_S)

    @rule(role=st.sampled_from([Role.MANAGEMENT, Role.INFERENCE]))
    def fail_to_renew(self, role: Role) -> None:
        old, new = self.ring.newest(role), self.ring.add(role)
        self.ring.keep_only(old)
        self.ended.append(new)

    @invariant()
    def exactly_the_current_keys_open_their_roles(self) -> None:
        for mine, (key, _, _) in self.current.items():
            for role in Role:
                expected = Verdict.VALID if role is mine else Verdict.OTHER_ROLE
                assert self.ring.check(shown(key), role) is expected
        for key in self.ended:
            assert {self.ring.check(shown(key), role) for role in Role} == {Verdict.UNKNOWN}

    def _count_down(self, wall_s: float, monotonic_s: float) -> None:
        for role, (key, wall_left, monotonic_left) in list(self.current.items()):
            if role is Role.API:
                continue
            left = (wall_left - wall_s, monotonic_left - monotonic_s)
            self.current[role] = (key, *left)
            if self.clocks.wall_s >= (key.ends_at or 0) or self.clocks.monotonic_s >= (
                key.ends_at_monotonic or 0
            ):
                self.ended.append(key)
                del self.current[role]


TestRenewals = pytest.mark.slow(Renewals.TestCase)
TestRenewals.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
