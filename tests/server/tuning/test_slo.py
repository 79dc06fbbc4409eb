from __future__ import annotations

import pytest

from flambeau.errors import ConfigError
from flambeau.tuning.slo import Slo, Target, parse_duration, parse_slo, shown_time


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("p99=20ms", [(99, 0.02)]),
        ("P99 = 1.5s", [(99, 1.5)]),
        ("p99=20ms,p50=5ms", [(50, 0.005), (99, 0.02)]),
        ("p90=800us, p95=1ms", [(90, 0.0008), (95, 0.001)]),
    ],
)
def test_an_objective_is_percentiles_with_limits(
    text: str, targets: list[tuple[int, float]]
) -> None:
    slo = parse_slo(text)
    assert [target.percentile for target in slo.targets] == [p for p, _ in targets]
    assert [t.limit_s for t in slo.targets] == pytest.approx([limit for _, limit in targets])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write it like p99=20ms"),
        ("20ms", "'20ms'; write it like p99=20ms"),
        ("p99=fast", "write it like"),
        ("p99<20ms", "write it like"),
        ("p98=20ms", "p98; use one of p50, p90, p95, p99"),
        ("p99=20", "unit ''; use one of us, ms, s"),
        ("p99=20min", "unit 'min'"),
        ("p99=0ms", "use a time over 0"),
        ("p99=20ms,p99=30ms", "p99 twice"),
        ("p50=30ms,p99=20ms", "p99=20ms below p50=30ms"),
    ],
)
def test_what_is_no_objective_is_refused_with_the_next_step(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_slo(text)


def test_an_objective_reads_as_it_is_written() -> None:
    assert str(parse_slo("p99=20ms,p50=850us")) == "p50=850us,p99=20ms"
    assert [shown_time(each) for each in (0.00085, 0.02, 1.5)] == ["850us", "20ms", "1.5s"]


def test_reports_name_the_highest_percentile() -> None:
    slo = Slo((Target(50, 0.1), Target(99, 0.2)))
    assert slo.highest == Target(99, 0.2)
    assert slo.longest_s == 0.2


def test_one_in_a_hundred_may_miss_p99() -> None:
    assert Target(99, 0.1).max_slower(1000) == 10
    assert Target(50, 0.1).max_slower(1000) == 500


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("0.5h", 1800)])
def test_a_budget_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text, flag="--budget") == seconds


@pytest.mark.parametrize("text", ["", "5", "0s", "5 minutes", "-1m"])
def test_what_is_no_budget_is_refused_by_the_flag_s_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget is .*; write it like 90s, 5m or 1h"):
        parse_duration(text, flag="--budget")
