"""The Open Inference Protocol's questions over HTTP; models that answer are in tests/torchserve."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

import flambeau
from flambeau.api.open_inference import open_inference_routers
from flambeau.app import create_app
from flambeau.audience import Audience
from flambeau.config import ServeConfig
from flambeau.devices import DeviceCycle
from flambeau.manifest import Manifest
from flambeau.metrics import Metrics
from flambeau.model_settings import ModelSettings
from flambeau.model_version import Host, Package
from flambeau.registry import Registration, Registry
from flambeau.signature import SIGNATURE_PATH, Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="tokens", dtype="int64", shape=(None, None)),
        TensorSpec(name="mask", dtype="bool", shape=(None, 8)),
    ),
    outputs=(TensorSpec(name="output_0", dtype="bfloat16", shape=(None, 2)),),
)


async def discard(_: Package) -> None:
    """Nothing was unpacked."""


def answers(*paths: str, directory: Path, starting: bool = False) -> list[httpx.Response]:
    """What a server with model `m` 1.0 and 2.0 answers, neither of which has workers."""

    async def ask() -> list[httpx.Response]:
        metrics = Metrics()
        host = Host(devices=DeviceCycle(0), environment={}, max_response_bytes=1000)
        registry = Registry(host=host, metrics=metrics, drain_timeout_s=5, discard=discard)
        for number in ("1.0", "2.0"):
            manifest = Manifest(model_version=number)
            package = Package(url="m.mar", digest="", model_dir=directory, manifest=manifest)
            registry.register(Registration(package=package, settings=ModelSettings(), model="m"))
        if not starting:
            registry.startup_done()
        app = create_app(
            [Audience.INFERENCE],
            open_inference_routers(registry),
            config=ServeConfig(),
            metrics=metrics,
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(ask())


def test_the_server_says_who_it_is_with_torchserve_s_misspelt_key(tmp_path: Path) -> None:
    (answer,) = answers("/v2", directory=tmp_path)
    assert answer.json() == {
        "name": "Torchserve",
        "version": flambeau.__version__,
        "extenstion": ["kserve", "kubeflow"],
        "extensions": ["kserve", "kubeflow"],
    }


@pytest.mark.parametrize(("starting", "status"), [(False, 200), (True, 503)])
def test_ready_is_not_said_before_models_are(
    tmp_path: Path, *, starting: bool, status: int
) -> None:
    live, ready = answers(
        "/v2/health/live", "/v2/health/ready", directory=tmp_path, starting=starting
    )
    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (ready.status_code, ready.json()) == (status, {"ready": not starting})


def test_metadata_has_the_signature_in_the_protocol_s_words(tmp_path: Path) -> None:
    path = tmp_path / SIGNATURE_PATH
    path.parent.mkdir()
    path.write_text(SIGNATURE.to_json())
    default, exact = answers("/v2/models/m", "/v2/models/m/versions/2.0", directory=tmp_path)
    assert default.json() == {
        "name": "m",
        "versions": ["1.0", "2.0"],
        "platform": "",
        "inputs": [
            {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "mask", "datatype": "BOOL", "shape": [-1, 8]},
        ],
        "outputs": [{"name": "output_0", "datatype": "BF16", "shape": [-1, 2]}],
    }
    assert exact.json() == default.json()


def test_a_model_without_a_signature_has_no_tensors_to_tell(tmp_path: Path) -> None:
    (answer,) = answers("/v2/models/m", directory=tmp_path)
    assert (answer.json()["inputs"], answer.json()["outputs"]) == ([], [])


def test_a_model_without_workers_is_not_ready(tmp_path: Path) -> None:
    for answer in answers(
        "/v2/models/m/ready", "/v2/models/m/versions/2.0/ready", directory=tmp_path
    ):
        assert (answer.status_code, answer.json()) == (503, {"name": "m", "ready": False})


def test_an_unknown_model_or_version_is_not_found(tmp_path: Path) -> None:
    for answer in answers(
        *("/v2/models/x", "/v2/models/x/ready", "/v2/models/m/versions/9"), directory=tmp_path
    ):
        assert answer.status_code == 404
