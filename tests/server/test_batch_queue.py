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


def test_what_is_put_back_comes_first() -> None:
    waiting = queue(batch=3)
    waiting.put(3, now=0.0)
    waiting.put(4, now=0.0)
    waiting.put_back([1, 2], now=0.5)
    assert [waiting.take(now=0.5) for _ in range(2)] == [[1, 2, 3], [4]]


def learned(*, cost_s: float, timeout_s: float = 0.0, batch: int = 4) -> BatchQueue[int]:
    """A queue that knows what batches cost, whatever their size."""
    waiting: BatchQueue[int] = BatchQueue(
        max_size=100, max_batch_size=batch, max_delay_s=0.1, timeout_s=timeout_s
    )
    for size in (1, batch) * 3:
        waiting.answered_batch("w", size=size, seconds=cost_s)
    return waiting


def meet(waiting: BatchQueue[int], *, num: int) -> None:
    """Moments at which a second request came right after the first."""
    for moment in range(num):
        waiting.put(-1, now=float(moment))
        if waiting.take(now=float(moment)):
            waiting.put(-2, now=moment + 0.0005)
            assert waiting.take(now=moment + 0.5, num_free=2) == [-2]
        else:
            waiting.put(-2, now=moment + 0.0005)
            assert waiting.take(now=moment + 0.0005) == [-1, -2]


def test_the_last_idle_worker_waits_for_those_who_come_at_once() -> None:
    waiting = learned(cost_s=0.02)
    meet(waiting, num=50)
    waiting.put(1, now=60.0)
    assert waiting.take(now=60.0) == []
    assert waiting.due_at() == 60.001
    waiting.put(2, now=60.0005)
    assert waiting.take(now=60.0005) == [1, 2]


def test_who_does_not_come_is_not_waited_for_longer() -> None:
    waiting = learned(cost_s=0.02)
    meet(waiting, num=50)
    waiting.put(1, now=60.0)
    assert waiting.take(now=60.0) == []
    assert waiting.take(now=60.001) == [1]


def test_with_another_worker_idle_nobody_waits() -> None:
    waiting = learned(cost_s=0.02)
    meet(waiting, num=50)
    waiting.put(1, now=60.0)
    assert waiting.take(now=60.0, num_free=2) == [1]


def test_a_batch_that_lost_all_its_requests_is_not_waited_for() -> None:
    waiting = learned(cost_s=0.02)
    meet(waiting, num=50)
    waiting.put(1, now=60.0)
    assert waiting.take(now=60.0) == []
    assert waiting.discard(1)
    assert waiting.due_at() is None


def test_a_full_batch_is_given_ahead_where_batches_take_milliseconds() -> None:
    short, long = learned(cost_s=0.001), learned(cost_s=0.05)
    for waiting in (short, long):
        for item in range(5):
            waiting.put(item, now=0.0)
    assert short.take_ahead() == [0, 1, 2, 3]
    assert short.take_ahead() == []  # one is no full batch
    assert long.take_ahead() == []


def test_a_full_batch_is_given_ahead_to_a_worker_that_decodes_it_meanwhile() -> None:
    waiting, timed = learned(cost_s=0.05), learned(cost_s=0.05, timeout_s=1.0)
    for item in range(5):
        waiting.put(item, now=0.0)
        timed.put(item, now=0.0)
    assert waiting.take_ahead(decode_s=0.002) == []  # that does not pay
    assert waiting.take_ahead(decode_s=0.02) == [0, 1, 2, 3]
    assert waiting.take_ahead(decode_s=0.02) == []
    assert timed.take_ahead(decode_s=0.02) == []


def test_what_runs_against_time_is_not_given_ahead() -> None:
    timed = learned(cost_s=0.001, timeout_s=1.0)
    for item in range(4):
        timed.put(item, now=0.0)
    assert timed.take_ahead() == []


def test_a_request_that_others_leave_no_time_for_is_too_late() -> None:
    waiting = learned(cost_s=1.0, timeout_s=2.5)
    assert not waiting.is_too_late(now=10.0, num_workers=1)
    waiting.put(1, now=10.0)
    assert waiting.take(now=10.0, worker="w") == [1]
    assert not waiting.is_too_late(now=10.0, num_workers=1)
    for item in range(2, 6):
        waiting.put(item, now=10.0)
    assert waiting.is_too_late(now=10.0, num_workers=1)  # 1 s for each of two batches, and its own
    assert not waiting.is_too_late(now=10.0, num_workers=2)
    assert not waiting.is_too_late(now=10.8, num_workers=1)
    waiting.worker_gone("w")
    assert not waiting.is_too_late(now=10.0, num_workers=1)


def test_a_request_whose_time_is_over_before_its_batch_would_be_is_not_computed() -> None:
    waiting = learned(cost_s=1.0, timeout_s=3.0)
    waiting.put(1, now=10.0)
    waiting.put(2, now=11.5)
    assert waiting.take_late(now=11.5) == []
    assert waiting.take_late(now=12.0) == [1]
    assert waiting.take(now=12.0) == [2]


def test_a_model_too_slow_for_its_deadline_is_still_asked() -> None:
    waiting = learned(cost_s=5.0, timeout_s=1.0)
    assert not waiting.is_too_late(now=10.0, num_workers=1)
    waiting.put(1, now=10.0)
    assert waiting.take_late(now=10.0) == []
    assert waiting.take(now=10.0) == [1]


def test_batches_are_short_enough_for_those_who_come_meanwhile() -> None:
    waiting: BatchQueue[int] = BatchQueue(max_size=100, max_batch_size=8, timeout_s=1.0)
    for size in range(1, 9):
        waiting.answered_batch("w", size=size, seconds=0.1 * size)
    for item in range(8):
        waiting.put(item, now=10.0)
    assert len(waiting.take(now=10.0)) == 5


def test_batches_are_not_cut_short_where_that_makes_nobody_faster() -> None:
    waiting = learned(cost_s=0.8, timeout_s=1.0)
    for item in range(4):
        waiting.put(item, now=10.0)
    assert len(waiting.take(now=10.0)) == 4


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


@given(steps=st.lists(st.integers(0, 5), max_size=200), timeout_s=st.sampled_from([0.0, 0.05]))
def test_whatever_happens_every_request_leaves_once_and_in_order(
    steps: list[int], timeout_s: float
) -> None:
    waiting: BatchQueue[int] = BatchQueue(
        max_size=1000, max_batch_size=4, max_delay_s=0.01, timeout_s=timeout_s
    )
    now, num_put, left, taken, running = 0.0, 0, set[int](), list[int](), list[int]()
    for step in steps:
        now += step / 1000
        if step < 3:
            waiting.put(num_put, now=now)
            num_put += 1
        elif step == 3 and waiting.discard(num_put - 1):
            left.add(num_put - 1)
        elif running:
            waiting.answered_batch("w", size=running.pop(), seconds=0.004)
        else:
            left.update(waiting.take_late(now=now))
            batch = waiting.take(now=now, worker="w", num_free=step - 3)
            taken += batch
            if batch:
                running.append(len(batch))
            assert len(batch) <= 4
    taken += waiting.take_all()
    assert taken == sorted(taken)
    assert left.isdisjoint(taken)
    assert len(left) + len(taken) == num_put


def test_how_long_the_queue_takes_follows_from_what_batches_cost() -> None:
    waiting = queue(batch=4)
    assert waiting.drained_in_s(num_workers=1) == 0.0
    for item in range(8):
        waiting.put(item, now=0.0)
    for _ in range(3):
        waiting.answered_batch("worker", size=4, seconds=10.0)
    assert waiting.drained_in_s(num_workers=1) == 20.0
    assert waiting.drained_in_s(num_workers=2) == 10.0


def test_without_workers_the_queue_takes_as_long_as_with_one() -> None:
    waiting = learned(cost_s=10.0)
    for item in range(8):
        waiting.put(item, now=0.0)
    assert waiting.drained_in_s(num_workers=0) == waiting.drained_in_s(num_workers=1) == 20.0


def test_a_full_batch_is_due_since_its_oldest_request_came() -> None:
    waiting = queue(batch=2, hold_s=60.0)
    waiting.put(1, now=10.0)
    assert waiting.due_at() == 70.0
    waiting.put(2, now=11.0)
    assert waiting.due_at() == 10.0


def test_what_is_put_back_waits_anew() -> None:
    waiting = queue(hold_s=1.0)
    waiting.put_back([1], now=5.0)
    assert waiting.due_at() == 6.0
    assert waiting.take(now=5.9) == []
    assert waiting.take(now=6.0) == [1]


def test_waiting_for_company_is_for_batches_and_not_for_fixed_windows() -> None:
    for batch, hold_s, expected in ((1, 0.0, 0.0), (2, 0.0, 0.1), (2, 0.05, 0.0)):
        waiting: BatchQueue[int] = BatchQueue(
            max_size=1, max_batch_size=batch, hold_s=hold_s, max_delay_s=0.1
        )
        assert waiting.max_delay_s == expected


def test_by_itself_a_queue_has_no_window_and_no_deadline() -> None:
    waiting: BatchQueue[int] = BatchQueue(max_size=1, max_batch_size=2)
    assert (waiting.hold_s, waiting.max_delay_s, waiting.timeout_s) == (0.0, 0.0, 0.0)


def test_who_comes_after_a_wait_that_was_given_up_is_weighed_anew() -> None:
    waiting = learned(cost_s=0.02)
    meet(waiting, num=50)
    waiting.put(1, now=60.0)
    assert waiting.take(now=60.0) == []
    assert waiting.discard(1)
    waiting.put(2, now=70.0)
    assert waiting.take(now=70.0) == []
    assert waiting.due_at() == 70.001


def test_who_has_no_time_to_wait_is_not_held_back() -> None:
    for timeout_s, is_held in ((0.0205, False), (1.0, True)):
        waiting = learned(cost_s=0.02, timeout_s=1.0)
        meet(waiting, num=50)
        waiting.timeout_s = timeout_s
        waiting.put(1, now=60.0)
        assert (waiting.take(now=60.0) == []) is is_held


def test_nothing_is_given_ahead_before_batches_of_its_size_were_seen() -> None:
    waiting = queue(batch=2)
    waiting.put(1, now=0.0)
    waiting.put(2, now=0.0)
    for _ in range(3):
        assert waiting.take_ahead() == []
        waiting.answered_batch("w", size=2, seconds=0.001)
    assert waiting.take_ahead() == [1, 2]


def test_the_time_of_all_who_are_ahead_counts_to_the_last_moment() -> None:
    for timeout_s, is_late in ((3.0, False), (2.99, True)):
        waiting = learned(cost_s=1.0, timeout_s=timeout_s)
        waiting.put(0, now=10.0)
        assert waiting.take(now=10.0, worker="w") == [0]
        for item in range(1, 5):
            waiting.put(item, now=10.0)
        assert waiting.is_too_late(now=10.0, num_workers=1) is is_late
        assert not waiting.is_too_late(now=10.0, num_workers=0)  # nobody knows


def test_a_worker_that_is_overdue_or_has_answered_keeps_nobody_waiting() -> None:
    waiting = learned(cost_s=1.0, timeout_s=1.0)
    waiting.put(0, now=10.0)
    assert waiting.take(now=10.0, worker="w") == [0]
    assert waiting.is_too_late(now=10.9, num_workers=1)
    assert not waiting.is_too_late(now=11.5, num_workers=1)
    waiting.answered_batch("w", size=1, seconds=1.0)
    assert not waiting.is_too_late(now=10.9, num_workers=1)
    waiting.worker_gone("somebody else")


def test_a_request_alone_has_until_its_own_batch_would_be_too_late() -> None:
    waiting = learned(cost_s=2.0, timeout_s=5.0)
    waiting.put(1, now=10.0)
    assert waiting.take_late(now=13.0) == []
    assert waiting.take_late(now=13.01) == [1]


def test_a_request_in_company_is_late_earlier_as_batches_vary() -> None:
    waiting = learned(cost_s=2.0, timeout_s=5.0)
    for item, now in ((1, 10.0), (2, 11.0), (3, 11.0), (4, 11.0)):
        waiting.put(item, now=now)
    assert waiting.take_late(now=12.59) == []  # 2.4 s, a fifth more than expected
    assert waiting.take_late(now=12.61) == [1]
    assert waiting.take_late(now=12.61) == []
    assert waiting.take(now=12.61) == [2, 3, 4]


def test_how_late_a_request_is_depends_on_the_batch_that_it_would_be_in() -> None:
    waiting: BatchQueue[int] = BatchQueue(max_size=100, max_batch_size=4, timeout_s=10.0)
    for size in (1, 2, 3, 4):
        for _ in range(3):
            waiting.answered_batch("w", size=size, seconds=float(size))
    for item in range(2):
        waiting.put(item, now=10.0)
    assert waiting.take_late(now=17.5) == []  # 2.4 s for the two
    assert waiting.take_late(now=17.7) == [0]
    assert waiting.take_late(now=19.0) == []  # 1 s for the one that is left


def test_two_idle_workers_share_requests_that_cost_by_themselves() -> None:
    waiting: BatchQueue[int] = BatchQueue(max_size=100, max_batch_size=8)
    for size in range(1, 9):
        waiting.answered_batch("w", size=size, seconds=0.1 * size)
    for item in range(4):
        waiting.put(item, now=0.0)
    assert [waiting.take(now=0.0, num_free=num) for num in (2, 1)] == [[0, 1], [2, 3]]
