from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from flambeau.testing import make_archive
from flambeau.torchserve import java_properties
from tests.integration.server import wait_until
from tests.torchserve.torchserve_command import Home, started

pytestmark = pytest.mark.slow
HANDLER = "def handle(data, context): return data"


def snapshots(home: Home, kind: str) -> list[Path]:
    return sorted((home.logs / "config").glob(f"*-{kind}.cfg"))


def properties_of(snapshot: Path) -> dict[str, str]:
    return java_properties.parse(snapshot.read_text(encoding="ascii"))


def table_of(snapshot: Path) -> dict[str, Any]:
    return dict(json.loads(properties_of(snapshot)["model_snapshot"]))


def wait_snapshots(home: Home, number: int) -> list[Path]:
    wait_until(
        lambda: len(snapshots(home, "snapshot")) >= number, what=f"{number} snapshots are written"
    )
    return snapshots(home, "snapshot")


def ok(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A store with two versions of m; neither gets workers, so nothing is loaded."""
    home = Home(tmp_path)
    for version in ("1.0", "2.0"):
        make_archive(home.store, name="m", version=version, handler=HANDLER)
    entry = {"minWorkers": 0, "maxWorkers": 0, "batchSize": 4, "responseTimeout": 30}
    home.configure(enable_model_api="true", models=json.dumps({"m": {"1.0": entry}}))
    return home


def test_a_server_starts_again_with_what_it_served(home: Home) -> None:
    flags = ["--models", "m-1.0.mar"]
    with started(home, *flags) as server, server.client("Management") as client:
        ok(client.post("/models", params={"url": "m-2.0.mar", "batch_size": 8}))
        wait_snapshots(home, 1)
        ok(client.delete("/models/m/2.0"))
        wait_snapshots(home, 2)
        ok(client.post("/models", params={"url": "m-2.0.mar", "batch_size": 8}))
        wait_snapshots(home, 3)

    (startup,) = snapshots(home, "startup")
    entry = {
        "defaultVersion": True,
        "marName": "m-1.0.mar",
        "minWorkers": 0,
        "maxWorkers": 0,
        "batchSize": 4,
        "maxBatchDelay": 100,
        "responseTimeout": 30,
        "startupTimeout": 120,
        "runtimeType": "python",
    }
    table = table_of(startup)
    assert table["models"] == {"m": {"1.0": entry}}
    assert (table["name"], table["modelCount"]) == (startup.name, 1)
    assert table["created"] > 1.7e12
    added, removed, *_ = snapshots(home, "snapshot")
    assert [*table_of(added)["models"]["m"]] == ["1.0", "2.0"]
    assert [*table_of(removed)["models"]["m"]] == ["1.0"]
    (shutdown,) = snapshots(home, "shutdown")
    assert table_of(shutdown)["models"]["m"]["2.0"] == entry | {
        "defaultVersion": False,
        "marName": "m-2.0.mar",
        "batchSize": 8,
        "responseTimeout": 120,
    }
    assert properties_of(shutdown)["inference_address"] == "http://127.0.0.1:0"
    assert shutdown.stat().st_mode & 0o777 == 0o600

    (home.directory / "config.properties").unlink()
    with started(home, "--models", "none.mar") as server, server.client("Management") as client:
        versions = {v["modelVersion"]: v for v in client.get("/models/m/all").json()}
        assert [(v["batchSize"], v["minWorkers"]) for v in versions.values()] == [(4, 0), (8, 0)]
        assert client.get("/models/m").json()[0]["modelVersion"] == "1.0"
        assert any("starting from the snapshot" in line for line in server.lines.so_far())

    (home.store / "m-2.0.mar").unlink()
    done = home.run("--foreground", "--model-store", "store")
    assert done.returncode == 1
    assert "the snapshot serves m from m-2.0.mar, which is not in store" in done.stdout


def test_a_snapshot_written_by_hand_chooses_versions_workers_and_the_default(home: Home) -> None:
    common = {"minWorkers": 0, "maxWorkers": 0, "responseTimeout": 60}
    versions = {
        "1.0": {"defaultVersion": False, "marName": "m-1.0.mar", **common},
        "2.0": {"defaultVersion": True, "marName": "m-2.0.mar", "batchSize": 16, **common},
    }
    snapshot = {"name": "startup.cfg", "modelCount": 2, "models": {"m": versions}}
    home.configure(model_snapshot=json.dumps(snapshot))
    with started(home, "--ncs") as server, server.client("Management") as client:
        (default,) = client.get("/models/m").json()
        assert (default["modelVersion"], default["batchSize"]) == ("2.0", 16)
        assert default["loadedAtStartup"] is True
    assert not (home.logs / "config").exists()
