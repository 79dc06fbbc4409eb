"""Registering archives of every format and from every kind of place, with real workers."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from flambeau.archive import unpack, write_archive
from flambeau.manifest import Manifest
from flambeau.torchserve.archiver import ModelArchiverConfig, archive_model
from tests.integration.archives import SERVICES, service
from tests.integration.server import Server, running_server
from tests.server.test_requirements import make_wheel

pytestmark = pytest.mark.slow


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Tests print nothing."""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What can be fetched: archives beside the store."""
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def address(outside: Path) -> Iterator[str]:
    """Where `outside` is served over HTTP."""
    handler = partial(QuietHandler, directory=str(outside))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(
    outside: Path, address: str, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Server]:
    store = tmp_path_factory.mktemp("store")
    flags = ["--allowed-urls", f"file://{outside}/.*", f"{address}/.*"]
    flags += ["--install-py-dep-per-model", "--default-service-handler", "handler.py"]
    with running_server(store, *flags) as running:
        yield running


def remove(server: Server, model: str) -> None:
    assert server.management.delete(f"/models/{model}").status_code == 200


@pytest.mark.parametrize("archive_format", ["zip-store", "tgz", "no-archive"])
def test_every_format_answers(archive_format: str, server: Server) -> None:
    config = ModelArchiverConfig(
        "formats",
        str(SERVICES / "echo.py"),
        "1.0",
        archive_format=archive_format,
        export_path=str(server.store),
        force=True,
    )
    archive = archive_model(config)
    response = server.register(archive)
    assert response.status_code == 200, response.text
    assert server.predict("formats", json={}).json()["model"] == "formats"
    assert server.describe("formats")["modelUrl"] == archive.name
    remove(server, "formats")
    assert archive.exists()


@pytest.mark.parametrize("kind", ["file", "http"])
def test_a_fetched_archive_is_served_and_goes_away_with_its_model(
    kind: str, server: Server, outside: Path, address: str
) -> None:
    archive = service(outside, "echo", name=f"from_{kind}")
    url = f"file://{archive}" if kind == "file" else f"{address}/{archive.name}?signature=a/b"
    for num_workers in (0, 1):  # what the first one left would be in the way of the second
        parameters: dict[str, str | int] = {"url": url, "initial_workers": num_workers}
        response = server.management.post("/models", params=parameters)
        assert response.status_code == 200, response.text
        assert server.describe(f"from_{kind}")["modelUrl"] == url
        assert (server.store / archive.name).is_file()
        again = server.management.post("/models", params=parameters)
        assert (again.status_code, again.json()) == (
            500,
            {
                "code": 500,
                "type": "InternalServerException",
                "message": f"Model file already exists {archive.name}",
            },
        )
        if num_workers:
            assert server.predict(f"from_{kind}", json={}).status_code == 200
        remove(server, f"from_{kind}")
        assert not (server.store / archive.name).exists()


def test_what_cannot_be_fetched_is_answered_as_torchserve_does(
    server: Server, address: str
) -> None:
    for url, code, kind, message in (
        ("https://h/m.mar", 404, "ModelNotFoundException", "Given URL {} does not match any"),
        (f"{address}/../m.mar", 404, "ModelNotFoundException", "Relative path is not allowed in"),
        (f"{address}/none.mar", 400, "DownloadArchiveException", "Failed to download archive from"),
    ):
        response = server.management.post("/models", params={"url": url})
        body = response.json()
        assert (response.status_code, body["code"], body["type"]) == (code, code, kind)
        assert body["message"].startswith(message.format(url))
    assert "404" in body["reason"]


@pytest.mark.parametrize("yaml", [None, b"useVenv: true\n"], ids=["beside", "venv"])
def test_a_handler_uses_what_its_archive_requires(yaml: bytes | None, server: Server) -> None:
    wheels = server.store.parent / "wheels"
    make_wheel(wheels, name="flambeau_example", version="2.1")
    handler = (
        b"import sys, flambeau_example\n"
        b"def handle(data, context):\n"
        b"    if data is None: return None\n"
        b"    return [f'{flambeau_example.VERSION} {sys.prefix}'] * len(data)\n"
    )
    manifest = Manifest(
        model_name="needy",
        requirements_file="requirements.txt",
        config_file=None if yaml is None else "config.yaml",
    )
    files: dict[str, Path | bytes] = {
        "handler.py": handler,
        "requirements.txt": f"--no-index\n--find-links {wheels}\nflambeau_example\n".encode(),
        **({} if yaml is None else {"config.yaml": yaml}),
    }
    archive = server.store / "needy.mar"
    write_archive(archive, manifest=manifest, files=files, overwrite=True)
    response = server.register(archive)
    assert response.status_code == 200, response.text
    version, prefix = server.predict("needy", json={}).text.split()
    assert version == "2.1"
    assert prefix.endswith("/venv") is (yaml is not None)
    remove(server, "needy")


def test_requirements_that_cannot_be_installed_are_the_callers_to_mend(server: Server) -> None:
    manifest = Manifest(model_name="lost", requirements_file="requirements.txt")
    archive = server.store / "lost.mar"
    files: dict[str, Path | bytes] = {
        "handler.py": b"x = 1",
        "requirements.txt": b"--no-index\nnowhere-to-be-found\n",
    }
    write_archive(archive, manifest=manifest, files=files)
    response = server.register(archive)
    body = response.json()
    assert (response.status_code, body["type"]) == (400, "ModelException")
    first, *rest = body["message"].splitlines()
    assert first == "Custom pip package installation failed for model lost"
    assert "nowhere-to-be-found" in "".join(rest)
    assert server.management.get("/models/lost").status_code == 404


def test_an_archive_that_says_nothing_needs_a_name(server: Server, tmp_path: Path) -> None:
    unpack(service(tmp_path, "echo"), server.store / "bare")
    (server.store / "bare" / "MAR-INF" / "MANIFEST.json").unlink()
    response = server.register(server.store / "bare")
    assert (response.status_code, response.json()) == (
        400,
        {
            "code": 400,
            "type": "InvalidModelException",
            "message": "Model name is not defined.",
        },
    )
    response = server.register(server.store / "bare", model_name="bare")
    assert response.status_code == 200, response.text
    assert server.predict("bare", json={}).json()["model"] == "bare"
    remove(server, "bare")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


UNPICKLING = b"""
import torch

class Mine:
    def initialize(self, context):
        torch.load(context.system_properties["model_dir"] + "/model.bin", weights_only=False)

    def handle(self, data, context):
        return ["done"] * len(data)
"""


def test_a_pickle_runs_only_where_the_models_yaml_allows_it(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save(Payload(marker), tmp_path / "model.bin")
    for name, yaml in (("strict", b""), ("trusting", b"handler: {allow_pickle: true}\n")):
        files: dict[str, Path | bytes] = {
            "handler.py": UNPICKLING,
            "model.bin": tmp_path / "model.bin",
            "c.yaml": yaml,
        }
        manifest = Manifest(model_name=name, handler="handler.py", config_file="c.yaml")
        write_archive(server.store / f"{name}.mar", manifest=manifest, files=files)
        response = server.register(server.store / f"{name}.mar")
        if name == "strict":
            assert response.status_code == 500
            assert "Weights only load failed" in response.json()["reason"]
        assert marker.exists() is (name == "trusting")
    remove(server, "trusting")
