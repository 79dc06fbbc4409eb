"""What needs no server; the server's life is in integration."""

from __future__ import annotations

from flambeau.serving import worker_environment


def test_workers_do_not_see_the_server_s_settings() -> None:
    seen = worker_environment({"FLAMBEAU_MODELS": "all", "HOME": "/home/me"})
    assert seen["HOME"] == "/home/me"
    assert "FLAMBEAU_MODELS" not in seen


def test_the_operator_s_word_on_waiting_threads_holds() -> None:
    assert worker_environment({})["GOMP_SPINCOUNT"] == "10000"
    assert worker_environment({"GOMP_SPINCOUNT": "5"})["GOMP_SPINCOUNT"] == "5"
    assert "GOMP_SPINCOUNT" not in worker_environment({"OMP_WAIT_POLICY": "active"})
