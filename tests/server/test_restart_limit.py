from __future__ import annotations

from flambeau.restart_limit import MAX_RESTARTS, WINDOW_S, RestartLimit, pause_s


def test_pauses_between_restarts_double_up_to_a_minute() -> None:
    assert [pause_s(n) for n in range(1, 5)] == [0.1, 0.2, 0.4, 0.8]
    assert pause_s(50) == 60.0


def test_only_so_many_restarts_are_within_a_minute() -> None:
    limit = RestartLimit()
    for second in range(MAX_RESTARTS):
        assert limit.wait_s(now=second) == 0
        limit.restarted(now=second)
    assert limit.wait_s(now=10) == WINDOW_S - 10
    assert limit.wait_s(now=WINDOW_S) == 0


def test_a_worker_lost_while_others_are_answered_is_no_loop() -> None:
    limit = RestartLimit()
    assert not limit.ended(now=0, num_answered=1, by_itself=False)
    assert limit.ended(now=1, num_answered=1, by_itself=False)
    assert not limit.ended(now=2, num_answered=2, by_itself=False)


def test_a_worker_that_ends_unasked_is_a_loop_however_much_was_answered() -> None:
    assert RestartLimit().ended(now=0, num_answered=100, by_itself=True)


def test_workers_that_are_lost_often_are_replaced_less_quickly() -> None:
    limit = RestartLimit()
    for place in range(50):
        limit.ended(now=place / 10, num_answered=place + 1, by_itself=False)
    assert limit.pause_s(now=5) == pause_s(6)
    assert limit.pause_s(now=WINDOW_S + 10) == pause_s(1)


def test_who_looks_after_a_version_gives_it_all_its_restarts_again() -> None:
    limit = RestartLimit()
    for _ in range(MAX_RESTARTS):
        limit.restarted(now=0)
    limit.clear()
    assert limit.wait_s(now=0) == 0
