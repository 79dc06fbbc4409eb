from __future__ import annotations

import pytest
import yaml

from flambeau.messages import OptimizeLevel
from flambeau.model_settings import ModelSettings
from flambeau.tuning.candidate import Candidate

FULL = Candidate(workers=2, threads=3, batch_size=8, max_delay_ms=5, level=OptimizeLevel.SAFE)


def test_a_candidate_is_what_its_yaml_says() -> None:
    assert Candidate.of_yaml(FULL.as_yaml(), default_workers=1) == FULL


def test_the_server_reads_a_candidate_s_yaml() -> None:
    settings = ModelSettings().with_yaml(FULL.as_yaml())
    assert (settings.min_workers, settings.max_workers, settings.batch_size) == (2, 2, 8)
    assert (settings.max_batch_delay_ms, settings.threads_per_worker) == (5, 3)


def test_what_an_archive_does_not_say_is_the_server_s_default() -> None:
    candidate = Candidate.of_yaml({"handler": {}}, default_workers=4)
    assert candidate == Candidate(workers=4, batch_size=1, max_delay_ms=100)
    assert "threadsPerWorker" not in candidate.as_yaml()


@pytest.mark.parametrize("text", ["off", "'off'"])
def test_off_is_a_level_though_yaml_reads_it_as_false(text: str) -> None:
    document = yaml.safe_load(f"optimize: {text}")
    assert Candidate.of_yaml(document, default_workers=1).level is OptimizeLevel.OFF


def test_the_smaller_of_two_has_fewer_workers_then_smaller_batches() -> None:
    candidates = [
        Candidate(workers=2),
        Candidate(workers=1, batch_size=8),
        Candidate(workers=1, batch_size=4, max_delay_ms=5),
        Candidate(workers=1, batch_size=4, level=OptimizeLevel.AUTO),
        Candidate(workers=1, batch_size=4),
    ]
    assert sorted(candidates, key=lambda each: each.size) == candidates[::-1]
