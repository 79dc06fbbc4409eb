from __future__ import annotations

from flambeau.quarantine import Quarantine
from flambeau.testing import make_request


def test_what_is_convicted_is_refused_until_its_time_is_over() -> None:
    quarantine = Quarantine(seconds=300)
    assert not quarantine.sizes
    quarantine.convict(make_request(b"poison", request_id="first"), now=10.0)
    assert quarantine.left_s(make_request(b"poison", request_id="other"), now=11.0) == 299.0
    assert quarantine.left_s(make_request(b"poisoN"), now=11.0) == 0
    assert quarantine.left_s(make_request(b"poison"), now=310.0) == 0
    assert not quarantine.sizes


def test_one_loss_alone_is_no_proof_and_a_second_one_is() -> None:
    quarantine = Quarantine(seconds=300)
    assert not quarantine.suspect(make_request(b"poison"), now=0.0)
    assert quarantine.left_s(make_request(b"poison"), now=1.0) == 0
    assert quarantine.suspect(make_request(b"poison"), now=2.0)
    assert quarantine.left_s(make_request(b"poison"), now=2.0) == 300.0


def test_a_second_loss_long_after_the_first_is_no_proof() -> None:
    quarantine = Quarantine(seconds=300)
    assert not quarantine.suspect(make_request(b"unlucky"), now=0.0)
    assert not quarantine.suspect(make_request(b"unlucky"), now=301.0)


def test_the_table_is_bounded_and_the_oldest_make_room() -> None:
    quarantine = Quarantine(seconds=300, max_entries=2)
    for place in range(3):
        quarantine.convict(make_request(b"%d" % place), now=0.0)
    left = [quarantine.left_s(make_request(b"%d" % place), now=1.0) > 0 for place in range(3)]
    assert left == [False, True, True]
    assert quarantine.sizes == {1: 2}


def test_a_quarantine_of_no_seconds_refuses_nothing() -> None:
    quarantine = Quarantine(seconds=0)
    quarantine.convict(make_request(b"poison"), now=0.0)
    assert not quarantine.sizes
