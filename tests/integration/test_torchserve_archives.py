"""Archives as people made them for TorchServe, served as they are."""

from __future__ import annotations

import json
import textwrap
import zipfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.server import Server, running_server

pytestmark = pytest.mark.slow

FUNCTION_STYLE = """
    import logging

    from ts.context import Context
    from ts.utils.util import PredictionException

    logger = logging.getLogger(__name__)


    class Service:
        def __init__(self):
            self.initialized = False

        def initialize(self, context: Context):
            self.name = context.manifest["model"]["modelName"]
            self.batch_size = context.system_properties["batch_size"]
            self.initialized = True


    _service = Service()


    def handle(data, context):
        if not _service.initialized:
            _service.initialize(context)
        if data is None:
            return None
        for row in data:
            if row.get("body") == "refuse":
                raise PredictionException("Some Prediction Error", 599)
        return [f"{_service.name} {row.get('data') or row.get('body')}" for row in data]
"""
CLASS_STYLE = """
    from ts.handler_utils.utils import send_intermediate_predict_response
    from ts.metrics.dimension import Dimension


    class Orders:
        def initialize(self, context):
            self.context = context
            self.gpu = context.system_properties.get("gpu_id")

        def handle(self, data, context):
            return [self.obey(idx, row["body"], context) for idx, row in enumerate(data)]

        def obey(self, idx, order, context):
            if order == "teapot":
                context.set_response_status(418, "Teapot", idx)
                context.set_response_header(idx, "X-Pot", "tea")
            if order == "stream":
                for number in range(3):
                    send_intermediate_predict_response(
                        [f"{number} "], context.request_ids, "Prediction", 200, context
                    )
            if order == "headers":
                return {
                    "agent": context.get_request_header(idx, "User-Agent"),
                    "type": context.get_all_request_header(idx)["body"],
                    "id": context.get_request_id(idx),
                }
            if order == "metric":
                dimension = [Dimension("Order", "metric")]
                context.metrics.add_metric("Orders", 1, "count", idx, dimension)
            return order
"""
SUBCLASS = """
    import torch
    from ts.handler_utils.timer import timed
    from ts.torch_handler.base_handler import BaseHandler


    class Labels(BaseHandler):
        def initialize(self, context):
            super().initialize(context)
            self.topk = self.model_yaml_config["handler"]["topk"]

        @timed
        def preprocess(self, data):
            rows = [row.get("data") or row.get("body") for row in data]
            return torch.tensor(rows, device=self.device)

        @timed
        def postprocess(self, data):
            values, indices = data.topk(self.topk)
            return [
                {self.mapping[str(index)]: value for index, value in zip(*row)}
                for row in zip(indices.tolist(), values.tolist())
            ]

        def get_insights(self, tensor_data, raw_data, target):
            return [{"target": target, "inputs": raw_data}]
"""
MODEL = """
    import torch


    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, rows):
            return rows * self.factor
"""
ENVELOPED = """
    class Doubling:
        def initialize(self, context):
            pass

        def handle(self, data, context):
            return [value * 2 for value in data]
"""


def mar(store: Path, name: str, files: dict[str, str], **model: str) -> None:
    """An archive as torch-model-archiver lays it out."""
    manifest = {
        "createdOn": "01/01/2024 00:00:00",
        "runtime": "python",
        "model": {"modelName": name, "modelVersion": "1.0", **model},
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest, indent=2))
        for path, text in files.items():
            archive.writestr(path, textwrap.dedent(text))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    store = tmp_path_factory.mktemp("store")
    mar(store, "function", {"service.py": FUNCTION_STYLE}, handler="service.py:handle")
    mar(store, "orders", {"orders.py": CLASS_STYLE}, handler="orders.py")
    labels = {
        "labels.py": SUBCLASS,
        "net.py": MODEL,
        "index_to_name.json": '{"0": "cat", "1": ["n2", "dog"], "2": "cow"}',
        "config.yaml": "handler:\n  topk: 2\n  profile: true\n",
    }
    mar(
        store,
        "labels",
        labels,
        handler="labels.py",
        modelFile="net.py",
        configFile="config.yaml",
    )
    mar(store, "enveloped", {"double.py": ENVELOPED}, handler="double", envelope="kserve")
    models = [f"{name}={name}.mar" for name in ("function", "orders", "labels", "enveloped")]
    with running_server(store, models=models) as running:
        yield running


def obey(server: Server, order: str) -> tuple[int, str]:
    response = server.inference.post(
        "/predictions/orders", content=order, headers={"content-type": "text/plain"}
    )
    return response.status_code, response.text


def test_a_function_loads_its_model_at_the_first_call(server: Server) -> None:
    response = server.inference.post("/predictions/function", data={"data": "x"})
    assert (response.status_code, response.text) == (200, "function bytearray(b'x')")


def test_a_prediction_exception_chooses_status_and_message(server: Server) -> None:
    response = server.inference.post(
        "/predictions/function", content="refuse", headers={"content-type": "text/plain"}
    )
    assert response.status_code == 599
    assert response.json() == {
        "code": 599,
        "type": "InternalServerException",
        "message": "Some Prediction Error",
    }


def test_a_class_answers_and_chooses_status_and_headers(server: Server) -> None:
    assert obey(server, "plain") == (200, "plain")
    response = server.inference.post(
        "/predictions/orders", content="teapot", headers={"content-type": "text/plain"}
    )
    assert (response.status_code, response.text) == (418, "teapot")
    assert response.headers["x-pot"] == "tea"


def test_an_answer_is_streamed_with_torchserves_call(server: Server) -> None:
    with server.inference.stream(
        "POST", "/predictions/orders", content="stream", headers={"content-type": "text/plain"}
    ) as response:
        assert response.headers["ts_stream_next"] == "true"
        assert response.headers["transfer-encoding"] == "chunked"
        assert "".join(response.iter_text()) == "0 1 2 stream"


def test_a_handler_reads_headers_as_clients_spell_them(server: Server) -> None:
    response = server.inference.post(
        "/predictions/orders",
        content="headers",
        headers={"content-type": "text/plain", "user-agent": "me"},
    )
    assert response.json() == {
        "agent": "me",
        "type": {"content-type": "text/plain"},
        "id": response.headers["x-request-id"],
    }


def test_a_handler_may_emit_metrics(server: Server) -> None:
    assert obey(server, "metric") == (200, "metric")


def test_a_subclass_of_base_handler_serves_an_eager_model_with_labels(server: Server) -> None:
    response = server.inference.post("/predictions/labels", json=[1.0, 3.0, 2.0])
    assert (response.status_code, response.json()) == (200, {"dog": 6.0, "cow": 4.0})


def test_an_explanation_reaches_get_insights(server: Server) -> None:
    response = server.inference.post("/explanations/labels", json=[1.0, 3.0, 2.0])
    assert response.json() == {"target": 0, "inputs": [1.0, 3.0, 2.0]}


def test_the_manifests_envelope_is_put_around_the_handler(server: Server) -> None:
    document = {"instances": [1, 2]}
    for path in ("/predictions/enveloped", "/v1/models/enveloped:predict"):
        response = server.inference.post(path, json=document)
        assert (response.status_code, response.json()) == (200, {"predictions": [2, 4]}), path


def test_a_request_that_the_envelope_cannot_read_is_the_clients_fault(server: Server) -> None:
    response = server.inference.post("/predictions/enveloped", json={"inputs": [1]})
    assert response.status_code == 400
    assert 'send {"instances": [...]}' in response.json()["message"]
