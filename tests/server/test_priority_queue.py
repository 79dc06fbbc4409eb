from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.errors import BadParameter
from flambeau.messages import InferenceRequest
from flambeau.pending import PendingRequest
from flambeau.priority_queue import HANDICAP_S, PriorityQueue
from flambeau.testing import make_request

HEADER = "x-priority"
LEVELS = ("high", "normal", "low")


def queue(*, batch: int = 1, size: int = 100) -> PriorityQueue:
    return PriorityQueue(header=HEADER, max_size=size, max_batch_size=batch)


def request(priority: str | None = None) -> PendingRequest:
    made = make_request(b"")
    headers = [] if priority is None else [(HEADER, priority)]
    sent = InferenceRequest(request_id=made.request_id, headers=headers, inputs=made.inputs)
    return PendingRequest(sent, 0.0, lambda _: None)


def put(waiting: PriorityQueue, priority: str | None, *, now: float = 0.0) -> PendingRequest:
    item = request(priority)
    assert waiting.refusal(item) is None
    waiting.put(item, now=now)
    return item


def test_the_most_urgent_leaves_first_and_equals_in_the_order_they_came() -> None:
    waiting = queue()
    low, usual, first, second = (put(waiting, each) for each in ("low", None, "high", "HIGH "))
    order = [waiting.take(now=0.0)[0] for _ in range(4)]
    assert order == [first, second, usual, low]


def test_without_the_header_a_request_is_normal() -> None:
    waiting = queue()
    usual, named = put(waiting, None), put(waiting, "normal")
    assert waiting.take(now=0.0) == [usual]
    assert waiting.take(now=0.0) == [named]


def test_a_batch_is_filled_with_the_most_urgent() -> None:
    waiting = queue(batch=2)
    low, high, usual = (put(waiting, each) for each in ("low", "high", "normal"))
    assert waiting.take(now=0.0) == [high, usual]
    assert waiting.take(now=0.0) == [low]


def test_nobody_waits_for_ever() -> None:
    waiting = queue()
    low = put(waiting, "low", now=0.0)
    put(waiting, "high", now=2 * HANDICAP_S - 0.01)
    late = put(waiting, "high", now=2 * HANDICAP_S + 0.01)
    assert waiting.take(now=3.0) != [low]
    assert waiting.take(now=3.0) == [low]
    assert waiting.take(now=3.0) == [late]


def test_in_a_full_queue_the_youngest_of_the_least_urgent_makes_room() -> None:
    waiting = queue(size=3)
    usual, older, younger = (put(waiting, each) for each in ("normal", "low", "low"))
    high = put(waiting, "high")
    assert waiting.take_displaced() == [younger]
    assert waiting.take_displaced() == []
    assert len(waiting) == 3
    assert waiting.take_all() == [usual, older, high]


def test_nobody_makes_room_for_an_equal() -> None:
    waiting = queue(size=1)
    put(waiting, "normal")
    for each in ("normal", "low", None):
        assert "1 requests wait already" in str(waiting.refusal(request(each)))
    assert waiting.refusal(request("high")) is None


@pytest.mark.parametrize("value", ["urgent", "", "0"])
def test_what_the_header_may_not_say_is_named(value: str) -> None:
    with pytest.raises(BadParameter, match=f"x-priority is '{value}'; use high, normal or low"):
        queue().refusal(request(value))


def test_what_is_put_back_goes_before_the_most_urgent() -> None:
    waiting = queue()
    low = put(waiting, "low")
    assert waiting.take(now=0.0) == [low]
    high = put(waiting, "high")
    waiting.put_back([low], now=1.0)
    assert waiting.take(now=1.0) == [low]
    assert waiting.take(now=1.0) == [high]


def test_nobody_makes_room_while_more_wait_than_may() -> None:
    waiting = queue(size=1)
    low = put(waiting, "low")
    assert waiting.take(now=0.0) == [low]
    put(waiting, "low")
    waiting.put_back([low], now=0.0)
    assert waiting.refusal(request("high")) is not None
    assert waiting.take(now=0.0) == [low]
    high = put(waiting, "high")
    assert waiting.take(now=0.0) == [high]


def test_of_several_that_are_put_back_the_most_urgent_goes_first() -> None:
    waiting = queue(batch=3)
    low, high = put(waiting, "low"), put(waiting, "high")
    assert waiting.take(now=0.0) == [low, high]
    one_by_one = queue()
    newer = put(one_by_one, "high")
    one_by_one.put_back([low, high], now=5.0)
    assert [one_by_one.take(now=5.0) for _ in range(3)] == [[high], [low], [newer]]


def test_what_was_put_back_and_taken_has_no_privilege_left() -> None:
    waiting = queue()
    low = put(waiting, "low")
    assert waiting.take(now=0.0) == [low]
    waiting.put_back([low], now=0.0)
    assert waiting.discard(low)
    assert not waiting.discard(low)
    waiting.put(low, now=0.0)
    high = put(waiting, "high")
    assert waiting.take(now=0.0) == [high]
    assert waiting.take(now=0.0) == [low]


def test_a_batch_of_equals_leaves_in_the_order_they_came() -> None:
    waiting = queue(batch=2)
    items = [put(waiting, "low", now=float(place)) for place in range(5)]
    assert [waiting.take(now=9.0) for _ in range(3)] == [items[:2], items[2:4], items[4:]]


def test_it_waits_as_other_queues_do() -> None:
    waiting = PriorityQueue(header=HEADER, max_size=9, max_batch_size=2, hold_s=0.5, timeout_s=3.0)
    item = put(waiting, "high", now=1.0)
    assert waiting.due_at() == 1.5
    assert waiting.take(now=1.25) == []
    assert waiting.take(now=1.5) == [item]
    assert waiting.timeout_s == 3.0
    delayed = PriorityQueue(header=HEADER, max_size=9, max_batch_size=2, max_delay_s=0.25)
    assert (delayed.max_delay_s, delayed.hold_s, delayed.timeout_s) == (0.25, 0.0, 0.0)
    assert (delayed.max_size, delayed.max_batch_size) == (9, 2)
    plain = queue()
    assert (plain.hold_s, plain.max_delay_s, plain.timeout_s) == (0.0, 0.0, 0.0)


def test_who_has_left_makes_no_room() -> None:
    waiting = queue(size=1)
    taken = put(waiting, "low")
    assert waiting.take(now=0.0) == [taken]
    assert waiting.discard(put(waiting, "low"))
    put(waiting, "normal")
    assert waiting.refusal(request("normal")) is not None


def test_only_the_header_that_was_named_counts() -> None:
    waiting = queue()
    made = make_request(b"")
    headers = [("priority", "urgent"), (HEADER, "low"), (HEADER, "high")]
    sent = InferenceRequest(request_id="id", headers=headers, inputs=made.inputs)
    item = PendingRequest(sent, 0.0, lambda _: None)
    assert waiting.refusal(item) is None
    waiting.put(item, now=0.0)
    usual = put(waiting, None)
    assert waiting.take(now=0.0) == [usual]


def test_nobody_is_displaced_while_there_is_room() -> None:
    waiting = queue(size=2)
    put(waiting, "low")
    put(waiting, "high")
    assert waiting.take_displaced() == []
    with pytest.raises(AssertionError, match="without asking refusal"):
        waiting.put(request("low"), now=0.0)


@given(
    st.lists(st.tuples(st.sampled_from([*LEVELS, "take", "discard"]), st.floats(0, 1)), max_size=60)
)
def test_each_request_leaves_exactly_once(events: list[tuple[str, float]]) -> None:
    waiting = queue(batch=3, size=5)
    now = 0.0
    inside: list[PendingRequest] = []
    gone: list[PendingRequest] = []
    for what, later_s in events:
        now += later_s
        if what == "take":
            taken = waiting.take(now=now)
            gone += taken
        elif what == "discard":
            taken = inside[:1]
            assert all(map(waiting.discard, taken))
            gone += taken
        else:
            item = request(what)
            if waiting.refusal(item) is None:
                waiting.put(item, now=now)
                inside.append(item)
            gone += waiting.take_displaced()
        inside = [item for item in inside if item not in gone]
        assert len(waiting) == len(inside) <= 5
    assert sorted(map(id, waiting.take_all())) == sorted(map(id, inside))
    assert len(set(map(id, gone))) == len(gone)
