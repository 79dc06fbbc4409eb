from __future__ import annotations

import pytest

from flambeau.messages import Reply
from flambeau.pending import PendingRequest, SequenceTag, in_sequence
from flambeau.sequence_queue import SequenceLimits, SequenceQueue
from flambeau.testing import make_request

NAMES = ("ts_request_sequence_id", "ts_request_sequence_start", "ts_request_sequence_end")


def queue(
    *, batch: int = 4, sequences: int = 10, waiting: int = 10, idle_s: float = 0, age_s: float = 0
) -> SequenceQueue:
    limits = SequenceLimits(
        max_sequences=sequences, max_waiting=waiting, max_idle_s=idle_s, max_age_s=age_s
    )
    return SequenceQueue(limits, max_batch_size=batch, num_seats=batch)


def request(name: str, *, starts: bool = False, ends: bool = False) -> PendingRequest:
    tag = SequenceTag(id=name, starts=starts, ends=ends)
    return PendingRequest(make_request(), 0.0, lambda _: None, sequence=tag)


def answer(*headers: tuple[str, str]) -> Reply:
    return Reply(status=200, phrase="", headers=list(headers), body=memoryview(b""))


def test_a_batch_has_one_request_of_each_sequence() -> None:
    waiting = queue()
    first, second = request("a", starts=True), request("a")
    other = request("b", starts=True)
    for each in (first, second, other):
        assert waiting.refusal(each) is None
        waiting.put(each, now=0.0)
    assert waiting.take(now=0.0, worker="w") == [first, other]
    assert waiting.take(now=0.0, worker="w") == []
    waiting.answered(first, answer(), now=1.0)
    assert waiting.take(now=1.0, worker="w") == [second]


def test_a_sequence_that_is_ended_closes_with_its_last_answer() -> None:
    waiting = queue(sequences=1)
    only, late = request("a", starts=True), request("a")
    waiting.put(only, now=0.0)
    waiting.end("a")
    assert "last request" in str(waiting.refusal(late))
    assert waiting.take(now=0.0, worker="w") == [only]
    waiting.answered(only, answer(), now=0.0)
    assert waiting.refusal(request("b", starts=True)) is None


def test_an_idle_sequence_that_is_ended_closes_at_once() -> None:
    waiting = queue(sequences=1)
    only = request("a", starts=True)
    waiting.put(only, now=0.0)
    assert waiting.take(now=0.0, worker="w") == [only]
    waiting.answered(only, answer(), now=0.0)
    waiting.end("a")
    waiting.end("never begun")
    assert waiting.refusal(request("b", starts=True)) is None


def test_a_sequence_stays_with_its_worker() -> None:
    waiting = queue(batch=1)
    a, b = request("a", starts=True), request("b", starts=True)
    waiting.put(a, now=0.0)
    waiting.put(b, now=0.0)
    assert waiting.take(now=0.0, worker="one") == [a]
    waiting.answered(a, answer(), now=0.0)
    assert waiting.take(now=0.0, worker="one") == []  # its only seat is taken
    assert waiting.take(now=0.0, worker="two") == [b]
    again = request("a")
    waiting.put(again, now=0.0)
    assert waiting.take(now=0.0, worker="two") == []
    assert waiting.take(now=0.0, worker="one") == [again]


@pytest.mark.parametrize(
    ("known", "new", "text"),
    [
        ([], ("x", False), "never begun"),
        ([("a", True), ("b", True)], ("c", True), "2 sequences are open already"),
        ([("a", True), ("a", False)], ("a", False), "2 requests waiting already"),
    ],
)
def test_what_is_over_a_limit_or_unknown_is_refused(
    known: list[tuple[str, bool]], new: tuple[str, bool], text: str
) -> None:
    waiting = queue(sequences=2, waiting=2)
    for name, starts in known:
        waiting.put(request(name, starts=starts), now=0.0)
    assert text in str(waiting.refusal(request(new[0], starts=new[1])))


def test_the_last_request_closes_its_sequence() -> None:
    waiting = queue()
    only = request("a", starts=True, ends=True)
    waiting.put(only, now=0.0)
    assert "last request" in str(waiting.refusal(request("a")))
    assert waiting.take(now=0.0, worker="w") == [only]
    waiting.answered(only, answer(), now=0.0)
    assert "closed" in str(waiting.refusal(request("a")))
    assert waiting.refusal(request("a", starts=True)) is None


def test_a_handler_may_end_sequences_by_a_header() -> None:
    waiting = queue()
    a, b, more = request("a", starts=True), request("b", starts=True), request("b")
    for each in (a, b, more):
        waiting.put(each, now=0.0)
    waiting.take(now=0.0, worker="w")
    waiting.answered(a, answer(("ts_request_sequence_end", "a;b")), now=0.0)
    assert waiting.take_expired(now=0.0) == [more]
    assert len(waiting) == 0


def test_silence_and_age_end_a_sequence() -> None:
    waiting = queue(idle_s=5.0, age_s=60.0)
    first = request("a", starts=True)
    waiting.put(first, now=0.0)
    waiting.take(now=0.0, worker="w")
    assert waiting.expires_at() == 60.0  # while it works, it is not idle
    waiting.answered(first, answer(), now=10.0)
    assert waiting.expires_at() == 15.0
    assert waiting.take_expired(now=14.0) == []
    assert waiting.refusal(request("a")) is None
    assert waiting.take_expired(now=15.0) == []
    assert waiting.refusal(request("a")) is not None


def test_the_requests_of_a_lost_worker_are_given_up() -> None:
    waiting = queue()
    first, second, other = request("a", starts=True), request("a"), request("b", starts=True)
    waiting.put(first, now=0.0)
    waiting.put(second, now=0.0)
    waiting.take(now=0.0, worker="lost")
    waiting.put(other, now=0.0)
    waiting.worker_gone("lost")
    assert waiting.take_expired(now=0.0) == [second]
    assert waiting.take(now=0.0, worker="new") == [other]


def test_a_withdrawn_request_is_not_taken() -> None:
    waiting = queue()
    first = request("a", starts=True)
    waiting.put(first, now=0.0)
    assert waiting.discard(first)
    assert not waiting.discard(first)
    assert waiting.take(now=0.0, worker="w") == []


def test_without_an_id_a_request_begins_a_sequence() -> None:
    plain = make_request()
    changed, tag = in_sequence(plain, NAMES)
    assert tag.starts
    assert (NAMES[0], tag.id) in changed.headers
    assert (NAMES[1], "true") in changed.headers
    same, tag_again = in_sequence(changed, NAMES)
    assert (same, tag_again) == (changed, tag)
