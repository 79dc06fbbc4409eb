from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flambeau.batch_queue import BatchQueue


def queue(*, batch: int = 4, hold_s: float = 0.0, size: int = 100) -> BatchQueue[int]:
    return BatchQueue(max_size=size, max_batch_size=batch, hold_s=hold_s)


def test_an_empty_queue_is_never_due() -> None:
    assert queue().due_at() is None
    assert queue().take(now=1e9) == []


def test_a_work_conserving_queue_gives_up_one_request_at_once() -> None:
    waiting = queue()
    waiting.put(1, now=10.0)
    assert waiting.take(now=10.0) == [1]


def test_a_held_batch_waits_until_its_oldest_request_is_old_enough() -> None:
    waiting = queue(hold_s=0.05)
    waiting.put(1, now=10.0)
    waiting.put(2, now=10.04)
    assert waiting.due_at() == 10.05
    assert waiting.take(now=10.049) == []
    assert waiting.take(now=10.05) == [1, 2]


def test_a_full_batch_leaves_at_once() -> None:
    waiting = queue(batch=2, hold_s=60.0)
    waiting.put(1, now=10.0)
    waiting.put(2, now=10.0)
    assert waiting.take(now=10.0) == [1, 2]


def test_a_discarded_request_is_not_in_the_batch() -> None:
    waiting = queue()
    for item in (1, 2, 3):
        waiting.put(item, now=0.0)
    assert waiting.discard(2)
    assert not waiting.discard(2)
    assert waiting.take(now=0.0) == [1, 3]


def test_there_is_no_room_at_the_limit() -> None:
    waiting = queue(size=2)
    waiting.put(1, now=0.0)
    assert waiting.refusal(3) is None
    waiting.put(2, now=0.0)
    assert "2 requests wait already" in str(waiting.refusal(3))
    waiting.take(now=0.0)
    assert waiting.refusal(3) is None


def test_what_is_put_back_comes_first_and_alone() -> None:
    waiting = queue(batch=4, hold_s=1.0)
    waiting.put(3, now=0.0)
    waiting.put(4, now=0.0)
    waiting.put_back([1, 2], now=0.5)
    assert [waiting.take(now=0.5) for _ in range(3)] == [[1], [2], []]
    assert waiting.take(now=1.0) == [3, 4]


@given(
    arrivals=st.lists(st.floats(0, 10), max_size=50).map(sorted),
    batch=st.integers(1, 8),
    hold_s=st.floats(0, 1),
)
def test_every_request_leaves_once_in_order_and_in_time(
    arrivals: list[float], batch: int, hold_s: float
) -> None:
    waiting = queue(batch=batch, hold_s=hold_s)
    left: list[int] = []
    for item, now in enumerate(arrivals):
        waiting.put(item, now=now)
        taken = waiting.take(now=now)
        assert len(taken) <= batch
        left += taken
    while (due_at := waiting.due_at()) is not None:
        oldest = len(left)
        assert due_at <= arrivals[oldest] + hold_s
        left += waiting.take(now=max(due_at, arrivals[-1]))
    assert left == list(range(len(arrivals)))
