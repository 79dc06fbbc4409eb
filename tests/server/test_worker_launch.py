from __future__ import annotations

import pytest

from flambeau.config import ServeConfig
from flambeau.messages import IsolationLevel
from flambeau.worker_launch import worker_launch

ENVIRONMENT = {
    "PATH": "/bin",
    "CUDA_VISIBLE_DEVICES": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "FLAMBEAU_TOKEN": "ours",
    "HF_TOKEN": "a",
    "AWS_SECRET_ACCESS_KEY": "b",
    "https_proxy": "c",
}
HARMLESS = {"PATH", "CUDA_VISIBLE_DEVICES", "TOKENIZERS_PARALLELISM"}
SET = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # by the server


def test_workers_get_no_credentials_and_no_proxies(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert set(worker_launch(ServeConfig(), ENVIRONMENT).environment) == {*HARMLESS, SET}
    assert "HF_TOKEN, AWS_SECRET_ACCESS_KEY, https_proxy" in caplog.text


def test_what_is_to_pass_passes_but_never_our_own_settings() -> None:
    some = worker_launch(ServeConfig(pass_env_vars="HF_.*"), ENVIRONMENT)
    assert set(some.environment) == {*HARMLESS, "HF_TOKEN", SET}
    unguarded = worker_launch(ServeConfig(isolation=IsolationLevel.OFF), ENVIRONMENT)
    assert set(unguarded.environment) == ENVIRONMENT.keys() - {"FLAMBEAU_TOKEN"} | {SET}
