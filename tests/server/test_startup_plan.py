"""What a start serves, for every combination of what is configured and what is remembered."""

from __future__ import annotations

import itertools

import pytest

from flambeau.desired import Desired, VersionRecord
from flambeau.model_settings import ModelSettings
from flambeau.startup_plan import Configured, plan_start


def record(model: str, version: str, *, at_startup: bool = False) -> VersionRecord:
    return VersionRecord(
        model=model,
        version=version,
        url=f"{model}-{version}.mar",
        digest=version,
        settings=ModelSettings(),
        at_startup=at_startup,
    )


def desired(*records: VersionRecord) -> Desired:
    whole = Desired()
    for each in records:
        whole = whole.with_version(each)
    return whole


def urls(desired: Desired, *configured: str) -> list[str]:
    plan = plan_start(desired, [Configured(url=url) for url in configured])
    return [load.url for load in plan.loads]


def test_a_first_start_serves_what_is_configured() -> None:
    plan = plan_start(Desired(), [Configured(url="b.mar", model="b"), Configured(url="a.mar")])
    assert [(load.url, load.model, load.at_startup) for load in plan.loads] == [
        ("b.mar", "b", True),
        ("a.mar", None, True),
    ]


def test_what_was_registered_at_run_time_is_served_again_without_being_configured() -> None:
    (load,) = plan_start(desired(record("m", "1")), []).loads
    assert load.remembered == record("m", "1")
    assert not load.at_startup


def test_what_is_configured_no_longer_is_forgotten() -> None:
    known = desired(record("m", "1", at_startup=True), record("m", "2"))
    plan = plan_start(known, [Configured(url="m-3.mar")])
    assert [load.url for load in plan.loads] == ["m-3.mar", "m-2.mar"]
    assert [each.version for each in plan.forgotten] == ["1"]


def test_what_was_removed_at_run_time_stays_away_until_it_is_configured_no_longer() -> None:
    known = desired(record("m", "1", at_startup=True)).without("m", "1")
    assert urls(known, "m-1.mar") == []
    assert plan_start(known, [Configured(url="m-1.mar")]).no_longer_removed == set()
    assert plan_start(known, []).no_longer_removed == {("m", "m-1.mar")}


def test_of_two_models_of_one_archive_only_the_removed_one_stays_away() -> None:
    one = VersionRecord(
        model="a", version="1", url="x.mar", digest="", settings=ModelSettings(), at_startup=True
    )
    known = desired(one).without("a", "1")
    configured = [Configured(url="x.mar", model="a"), Configured(url="x.mar", model="b")]
    assert [load.model for load in plan_start(known, configured).loads] == ["b"]


def test_an_archive_that_was_registered_again_after_its_removal_is_served() -> None:
    known = desired(record("m", "1", at_startup=True)).without("m", "1")
    assert urls(known.with_version(record("m", "1")), "m-1.mar") == ["m-1.mar"]


def test_a_default_comes_first_in_its_model() -> None:
    known = desired(record("m", "1"), record("m", "2"), record("n", "1"))
    known = known.with_default("m", "2")
    loads = plan_start(known, []).loads
    assert [load.url for load in loads if load.model == "m"] == ["m-2.mar", "m-1.mar"]
    assert {load.url for load in loads if load.is_default} == {"m-2.mar", "n-1.mar"}


_STATES = ("absent", "startup", "run time", "removed")


@pytest.mark.parametrize("default", ["1", "2"])
def test_each_configured_or_remembered_archive_is_loaded_exactly_once(default: str) -> None:
    """All states of two versions, with and without their archives in the configuration."""
    for states in itertools.product(_STATES, repeat=2):
        for configured in itertools.product([False, True], repeat=2):
            known = Desired()
            for version, state in zip("12", states, strict=True):
                if state != "absent":
                    at_startup = state in {"startup", "removed"}
                    known = known.with_version(record("m", version, at_startup=at_startup))
            known = known.with_default("m", default)
            for version, state in zip("12", states, strict=True):
                if state == "removed":
                    known = known.without("m", version)
            wanted = {
                f"m-{version}.mar"
                for version, state, is_configured in zip("12", states, configured, strict=True)
                if state == "run time" or (is_configured and state != "removed")
            }
            names = [f"m-{v}.mar" for v, named in zip("12", configured, strict=True) if named]
            case = (states, configured)
            loaded = urls(known, *names)
            assert sorted(loaded) == sorted(wanted), case
            plan = plan_start(known, [Configured(url=name) for name in names])
            assert sum(load.is_default for load in plan.loads) <= 1, case
            if any(load.is_default for load in plan.loads):
                assert plan.loads[0].is_default, case


def test_a_change_to_what_is_not_there_changes_nothing() -> None:
    known = desired(record("m", "1"))
    for changed in (
        known.with_default("m", "9"),
        known.with_workers("m", "9", low=1, high=1),
        known.without("n", "1"),
    ):
        assert changed == known


def test_the_last_of_the_others_answers_when_a_default_goes() -> None:
    known = desired(record("m", "1"), record("m", "2"), record("m", "3"))
    assert known.without("m", "1").models["m"].default == "3"
    assert known.without("m", "1").without("m", "2").without("m", "3") == Desired()


def test_scaled_workers_are_marked_as_such() -> None:
    scaled = desired(record("m", "1")).with_workers("m", "1", low=2, high=3).version("m", "1")
    assert scaled is not None
    assert (scaled.settings.min_workers, scaled.settings.max_workers) == (2, 3)
    assert scaled.is_scaled
