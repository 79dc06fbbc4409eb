from __future__ import annotations

from pathlib import Path

import pytest

from flambeau.torchserve.launch import Launch, environment_of, free_ports, properties_text
from flambeau.torchserve.upstream import UpstreamError, running_flambeau


def test_a_launch_becomes_properties() -> None:
    launch = Launch(
        store=Path("/store"),
        models=("a=a.mar", "b.mar"),
        properties={"metrics_config": "$DIRECTORY/m.yaml", "default_workers_per_model": "3"},
        token_auth=True,
        combined_port=True,
    )
    text = properties_text(launch, ports=[1, 2, 3, 4, 5], directory=Path("/own"))
    lines = text.splitlines()
    assert "management_address=http://127.0.0.1:1" in lines
    assert "load_models=a=a.mar,b.mar" in lines
    assert "metrics_config=/own/m.yaml" in lines
    assert "default_workers_per_model=3" in lines
    assert "disable_token_authorization=false" in lines


def test_settings_of_other_servers_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_CONFIG_FILE", "other")
    monkeypatch.setenv("FLAMBEAU_LOG_LEVEL", "debug")
    environment = environment_of(Launch(store=Path(), environment={"MINE": "1"}), Path("/own"))
    assert not {"TS_CONFIG_FILE", "FLAMBEAU_LOG_LEVEL"} & environment.keys()
    assert environment["TEMP"] == "/own/tmp"
    assert environment["MINE"] == "1"


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(5))) == 5


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    launch = Launch(store=tmp_path, properties={"job_queue_size": "many"})
    with pytest.raises(UpstreamError, match="job_queue_size"), running_flambeau(launch):
        pass
