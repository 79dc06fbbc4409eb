from __future__ import annotations

from flambeau.worker_slot import pause_s


def test_pauses_between_restarts_double_up_to_a_minute() -> None:
    assert [pause_s(n) for n in range(1, 5)] == [0.1, 0.2, 0.4, 0.8]
    assert pause_s(50) == 60.0
