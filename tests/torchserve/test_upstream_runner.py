"""Requests handed on to another server; ours stands for TorchServe, whose API it has."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from flambeau.context import Context
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.messages import InferenceRequest, Input, LoadModel
from flambeau.testing import make_archive
from flambeau.torchserve.launch import Launch
from flambeau.torchserve.upstream import running_flambeau
from flambeau.torchserve.upstream_runner import UpstreamRunner, launch_of
from flambeau.torchserve.worker import wants_upstream

HANDLER = """
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException

def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "describe") == "True":
        return [{"described": True}]
    answers = []
    for index, row in enumerate(data):
        word = row.get("body")
        if word == "refuse":
            raise PredictionException("refused", 422)
        if word == "stream":
            send_intermediate_predict_response(["part, "], context.request_ids, "", 200, context)
        if isinstance(word, dict):
            context.set_response_status(201, "", index)
            context.set_response_content_type(index, "text/csv")
        answers.append(str(sorted(row.items())))
    return answers
"""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Generator[UpstreamRunner]:
    store = tmp_path_factory.mktemp("store")
    make_archive(store, name="m", handler=HANDLER)
    launch = Launch(store=store, models=("m=m-1.0.mar",))
    with closing(
        UpstreamRunner(launch, model_name="m", max_batch_size=4, start=running_flambeau)
    ) as runner:
        yield runner


def make_context(*bodies: Input, headers: list[tuple[str, str]] | None = None) -> Context:
    context = Context("m", "/", {}, 4, None, "")
    context.begin_batch(
        [
            InferenceRequest(request_id=str(index), headers=headers or [], inputs=[body])
            for index, body in enumerate(bodies)
        ]
    )
    return context


def text(body: bytes, content_type: str = "text/plain") -> Input:
    return Input(name="body", content_type=content_type, body=memoryview(body))


@pytest.mark.slow
def test_a_batch_is_answered_in_order(runner: UpstreamRunner) -> None:
    context = make_context(text(b"a"), text(b"b"))
    answers = runner.handle([{"body": "a"}, {"body": "b"}], context)
    assert answers == [b"[('body', 'a')]", b"[('body', 'b')]"]


@pytest.mark.slow
def test_content_types_and_statuses_are_passed_on(runner: UpstreamRunner) -> None:
    context = make_context(text(b"{}", "application/json"))
    assert runner.handle([{"body": {"a": 1}}], context) == [b"[('body', {'a': 1})]"]
    assert context.get_response_status(0)[0] == 201
    assert context.get_response_content_type(0) == "text/csv"


@pytest.mark.slow
def test_fields_of_a_form_stay_fields(runner: UpstreamRunner) -> None:
    context = make_context(Input(name="data", content_type=None, body=memoryview(b"x")))
    assert runner.handle([{"data": bytearray(b"x")}], context) == [b"[('data', bytearray(b'x'))]"]


@pytest.mark.slow
def test_an_error_keeps_its_status_and_body(runner: UpstreamRunner) -> None:
    context = make_context(text(b"refuse"))
    (answer,) = runner.handle([{"body": "refuse"}], context)
    assert isinstance(answer, bytes)
    assert json.loads(answer)["message"] == "refused"
    assert context.get_response_status(0)[0] == 422


@pytest.mark.slow
def test_parts_of_a_stream_come_as_parts(runner: UpstreamRunner) -> None:
    context = make_context(text(b"stream"))
    parts: list[list[object]] = []
    context.intermediate_sink = parts.append
    (last,) = runner.handle([{"body": "stream"}], context)
    assert (parts, last) == ([[b"part, "]], b"[('body', 'stream')]")


@pytest.mark.slow
def test_a_description_comes_from_the_model(runner: UpstreamRunner) -> None:
    context = make_context(text(b""), headers=[("describe", "True")])
    assert runner.handle([{"body": ""}], context) == [{"described": True}]


def make_load(directory: Path, *, yaml: str, handler: str | None = None) -> LoadModel:
    manifest = Manifest(model_name="m", handler="h.py", config_file="model-config.yaml")
    (directory / MANIFEST_PATH).parent.mkdir()
    (directory / MANIFEST_PATH).write_text(manifest.to_json())
    (directory / "model-config.yaml").write_text(yaml)
    return LoadModel(
        model_name="m",
        model_version="1.0",
        model_dir=str(directory),
        handler=handler,
        device="cpu",
        max_batch_size=1,
        num_threads=1,
        max_response_bytes=1,
        server_version="",
        service_envelope="json",
        decode_inputs=False,
    )


@pytest.mark.parametrize(
    ("yaml", "handler", "wanted"),
    [
        ("runner: torchserve", None, True),
        ("batchSize: 1", None, False),
        ("batchSize: 1", "torchserve", True),
        ("runner: torchserve", "other.py", False),
    ],
)
def test_registration_or_yaml_ask_for_torchserve(
    tmp_path: Path, yaml: str, handler: str | None, *, wanted: bool
) -> None:
    assert wants_upstream(make_load(tmp_path, yaml=yaml, handler=handler)) is wanted


def test_torchserve_gets_the_settings_that_the_model_has(tmp_path: Path) -> None:
    launch = launch_of(make_load(tmp_path, yaml=""))
    assert launch.models == (f"m={tmp_path.name}",)
    assert launch.store == tmp_path.parent
    assert launch.properties["service_envelope"] == "json"
    assert launch.properties["decode_input_request"] == "false"
    assert not launch.own_group
