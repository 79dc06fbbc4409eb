from __future__ import annotations

import logging

import pytest

from flambeau.errors import BadParameter
from flambeau.model_settings import ModelSettings


def test_the_archive_s_wishes_replace_the_server_s_defaults() -> None:
    defaults = ModelSettings(job_queue_size=7)
    settings = defaults.with_yaml(
        {"minWorkers": 2, "maxWorkers": 3, "batchSize": 8, "maxBatchDelay": 5, "deviceIds": [1, 2]}
    )
    assert (settings.min_workers, settings.max_workers, settings.batch_size) == (2, 3, 8)
    assert settings.max_batch_delay_ms == 5
    assert settings.device_ids == (1, 2)
    assert settings.job_queue_size == 7


def test_worker_counts_that_make_no_sense_are_ignored() -> None:
    assert ModelSettings().with_yaml({"minWorkers": 3, "maxWorkers": 1}).min_workers == 0


def test_a_value_of_the_wrong_type_is_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        settings = ModelSettings().with_yaml({"batchSize": "eight"})
    assert settings.batch_size == 1
    assert "batchSize" in caplog.text


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("auto", "auto"),
        ("safe", "safe"),
        ("off", "off"),
        (False, "off"),
        (True, "safe"),
        (3, "safe"),
    ],
)
def test_a_plain_off_in_yaml_is_a_level_of_optimising(value: object, level: str) -> None:
    assert ModelSettings().with_yaml({"optimize": value}).optimize.value == level


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("batch_size", 0, "batch_size is 0"),
        ("batch_size", 10**9, "batch_size"),
        ("max_batch_delay_ms", -1, "max_batch_delay is -1"),
        ("response_timeout_s", 0, "response_timeout is 0"),
        ("max_workers", 10**6, "max_worker is 1000000"),
        ("job_queue_size", 0, "job_queue_size is 0"),
        ("threads_per_worker", -1, "threadsPerWorker is -1"),
    ],
)
def test_a_value_out_of_range_names_the_parameter_of_the_api(
    field: str, value: int, name: str
) -> None:
    with pytest.raises(BadParameter, match=name):
        ModelSettings(**{field: value})  # type: ignore[arg-type]  # mypy sees one type for all


def test_fewer_most_than_least_workers_is_torchserve_s_error() -> None:
    with pytest.raises(BadParameter, match=r"^max_worker cannot be less than min_worker\.$"):
        ModelSettings().with_workers(2, 1)


def test_an_archive_may_ask_to_be_kept_apart_further_and_no_less(
    caplog: pytest.LogCaptureFixture,
) -> None:
    basic = ModelSettings(max_memory_bytes=1000)
    asked = basic.with_yaml({"isolation": "strict", "maxMemory": 500})
    assert (asked.isolation.value, asked.max_memory_bytes) == ("strict", 500)
    liberties = {
        "isolation": False,
        "allowNetwork": True,
        "readPaths": ["/"],
        "writePaths": ["/"],
        "maxMemory": 2000,
    }
    assert basic.with_yaml(liberties) == basic
    assert caplog.text.count("for model_settings") == 5
    allowed = basic.with_yaml(liberties, by_operator=True)
    assert (allowed.isolation.value, allowed.allow_network) == ("off", True)
    assert (allowed.read_paths, allowed.max_memory_bytes) == (("/",), 2000)
