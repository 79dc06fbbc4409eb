"""Servers that are configured otherwise: envelopes, tokens, protocols, metrics, ports, limits."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any, Final

from flambeau.torchserve.exchange import Headers, Request
from flambeau.torchserve.launch import Port
from tests.conformance.scenario import JSON_TYPE, Scenario, ask, do, infer, manage, scrape

_TEXT: Final = (("Content-Type", "text/plain"),)
_B64: Final = base64.b64encode(b"\x00\x01").decode()

# envelopes


def _tensor(name: str, shape: list[int], kind: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": kind, "data": data}


_V1 = "/v1/models/instances:predict"
_V2 = "/v2/models/instances/infer"
_PLAIN = "/predictions/instances"

_ENVELOPES = (
    Scenario(
        name="envelope_body",
        archives=("instances", "eager", "scripted"),
        models=("instances.mar", "eager.mar", "scripted.mar"),
        properties={"service_envelope": "body"},
        requests=(
            ask("eager network", "/predictions/eager", [1.0, 2.0]),
            ask("TorchScript network", "/predictions/scripted", [1.0, 2.0]),
            ask("numbers that are none", "/predictions/scripted", ["a"]),
            ask("input of a wrong shape", "/predictions/scripted", [1.0, 2.0, 3.0]),
            ask("JSON", _PLAIN, {"a": 1}),
            infer("bytes", _PLAIN, b"\x00\xff"),
            infer("text", _PLAIN, "abc", headers=_TEXT),
            infer("form with data", _PLAIN, b"data=abc&other=1",
                  headers=(("Content-Type", "application/x-www-form-urlencoded"),)),
            infer("form without data", _PLAIN, b"other=1",
                  headers=(("Content-Type", "application/x-www-form-urlencoded"),)),
        ),
    ),
    Scenario(
        name="envelope_json",
        archives=("instances",),
        models=("instances.mar",),
        properties={"service_envelope": "json"},
        requests=(
            ask("instances", _PLAIN, {"instances": [{"a": 1}, 2, "x"]}),
            ask("one instance", _PLAIN, {"instances": [[1, 2]]}),
            ask("no instances", _PLAIN, {"instances": []}),
            ask("base64", _PLAIN, {"instances": [{"b64": _B64}]}),
            ask("without instances", _PLAIN, {"a": 1}),
            infer("text of JSON", _PLAIN, '{"instances": [1]}', headers=_TEXT),
            infer("bytes of JSON", _PLAIN, '{"instances": [1]}'),
            infer("no JSON", _PLAIN, "abc"),
            ask("kserve route", _V1, {"instances": [1]}),
        ),
    ),
    Scenario(
        name="envelope_kserve",
        archives=("instances",),
        models=("instances.mar",),
        properties={"service_envelope": "kserve"},
        requests=(
            ask("instances", _V1, {"instances": [{"a": 1}, 2, "x"]}),
            ask("one instance", _V1, {"instances": [[1, 2]]}),
            ask("no instances", _V1, {"instances": []}),
            ask("without instances", _V1, {"a": 1}),
            infer("bytes of JSON", _V1, '{"instances": [1]}'),
            ask("predictions route", _PLAIN, {"instances": [1]}),
            ask("explanation", "/v1/models/instances:explain", {"instances": [1]}),
        ),
    ),
    Scenario(
        name="envelope_kservev2",
        archives=("instances",),
        models=("instances.mar",),
        properties={"service_envelope": "kservev2"},
        requests=(
            ask("integers", _V2, {"id": "mine", "inputs": [_tensor("x", [2], "INT64", [1, 2])]}),
            ask("matrix", _V2,
                {"id": "mine", "inputs": [_tensor("x", [2, 2], "FP32", [1.5, 2, 3, 4])]}),
            ask("several inputs", _V2,
                {"id": "m", "inputs": [_tensor("a", [1], "INT32", [1]),
                                       _tensor("b", [1], "INT32", [2])]}),
            ask("bytes", _V2, {"id": "m", "inputs": [_tensor("x", [1], "BYTES", ["abc"])]}),
            ask("without an id", _V2, {"inputs": [_tensor("x", [1], "INT64", [1])]}),
            ask("without inputs", _V2, {"id": "m"}),
            ask("wrong shape", _V2, {"id": "m", "inputs": [_tensor("x", [3], "INT64", [1])]}),
            ask("predictions route", _PLAIN,
                {"id": "m", "inputs": [_tensor("x", [1], "INT64", [1])]}),
            ask("explanation", "/v2/models/instances/explain",
                {"id": "m", "inputs": [_tensor("x", [1], "INT64", [1])]}),
        ),
    ),
)  # fmt: skip

# tokens


def _bearer(key: str) -> Headers:
    return (("Authorization", f"Bearer <<{key}_key>>"),)


_WRONG: Final = (("Authorization", "Bearer wrong"),)

_TOKENS = Scenario(
    name="tokens",
    archives=("plain", "stored"),
    models=("plain.mar",),
    token_auth=True,
    requests=(
        infer("prediction without a token", "/predictions/plain", b"x"),
        infer("prediction with a token", "/predictions/plain", b"x", headers=_bearer("inference")),
        infer("prediction with a wrong token", "/predictions/plain", b"x", headers=_WRONG),
        infer("prediction with the other token", "/predictions/plain", b"x",
              headers=_bearer("management")),
        infer("prediction with the API key", "/predictions/plain", b"x", headers=_bearer("API")),
        infer("token without Bearer", "/predictions/plain", b"x",
              headers=(("Authorization", "<<inference_key>>"),)),
        infer("token after another word", "/predictions/plain", b"x",
              headers=(("Authorization", "Basic <<inference_key>>"),)),
        infer("header in lower case", "/predictions/plain", b"x",
              headers=(("authorization", "Bearer <<inference_key>>"),)),
        infer("no model without a token", "/predictions/absent", b"x"),
        infer("ping without a token", "/ping", method="GET"),
        infer("ping with a token", "/ping", method="GET", headers=_bearer("inference")),
        infer("api description without a token", "/", method="OPTIONS", view="openapi"),
        infer("description of a model without a token", "/predictions/plain", method="OPTIONS",
              view="openapi"),
        infer("kserve without a token", "/v1/models/plain:predict", b"x"),
        infer("no such route without a token", "/nowhere", method="GET"),
        manage("list without a token", "GET", "/models"),
        manage("list with a token", "GET", "/models", headers=_bearer("management")),
        manage("list with the other token", "GET", "/models", headers=_bearer("inference")),
        manage("list with a wrong token", "GET", "/models", headers=_WRONG),
        manage("register without a token", "POST", "/models?url=stored.mar"),
        manage("register with a token", "POST", "/models?url=stored.mar",
               headers=_bearer("management")),
        manage("kserve readiness without a token", "GET", "/v1/models/plain"),
        manage("management description without a token", "OPTIONS", "/", view="openapi"),
        scrape("metrics without a token"),
        manage("new token without the key", "GET", "/token?type=inference"),
        manage("new token with a wrong key", "GET", "/token?type=inference", headers=_WRONG),
        manage("new token of no kind", "GET", "/token", headers=_bearer("API")),
        manage("new token of a wrong kind", "GET", "/token?type=wrong", headers=_bearer("API")),
        manage("new token", "GET", "/token?type=inference", headers=_bearer("API")),
        infer("the old token after that", "/predictions/plain", b"x",
              headers=_bearer("inference")),
    ),
)  # fmt: skip

# protocols and metrics

_OIP = Scenario(
    name="open_inference_protocol",
    archives=("inputs",),
    models=("inputs.mar",),
    properties={"ts_open_inference_protocol": "true"},
    requests=(
        infer("server metadata", "/v2", method="GET"),
        infer("server metadata with a slash", "/v2/", method="GET"),
        infer("live", "/v2/health/live", method="GET"),
        infer("ready", "/v2/health/ready", method="GET"),
        infer("live by POST", "/v2/health/live", b""),
        infer("model", "/v2/models/inputs", method="GET"),
        infer("model ready", "/v2/models/inputs/ready", method="GET"),
        infer("versions", "/v2/models/inputs/versions/1.0", method="GET"),
        infer("version ready", "/v2/models/inputs/versions/1.0/ready", method="GET"),
        infer("version inference", "/v2/models/inputs/versions/1.0/infer", b"{}"),
        ask("inference", "/v2/models/inputs/infer",
            {"id": "a", "inputs": [_tensor("x", [1], "INT64", [1])]}),
        infer("nonsense below", "/v2/nonsense", method="GET"),
        infer("prediction", "/predictions/inputs", b"x"),
        infer("ping", "/ping", method="GET"),
    ),
)  # fmt: skip

_METRICS_FILE: Final = """\
dimensions:
  - &model_name "ModelName"
  - &level "Level"
ts_metrics:
  counter:
    - {name: Requests2XX, unit: Count, dimensions: [*level, "Hostname"]}
    - {name: Requests4XX, unit: Count, dimensions: [*level, "Hostname"]}
    - {name: Requests5XX, unit: Count, dimensions: [*level, "Hostname"]}
    - {name: ts_inference_requests_total, unit: Count,
       dimensions: ["model_name", "model_version", "hostname"]}
  gauge:
    - {name: QueueTime, unit: Milliseconds, dimensions: [*level, "Hostname"]}
model_metrics:
  counter:
    - {name: RowsSeen, unit: count, dimensions: [*model_name, *level]}
    - {name: NeverEmitted, unit: count, dimensions: [*model_name]}
  gauge:
    - {name: ThinkTime, unit: ms, dimensions: [*model_name, *level]}
    - {name: PredictionTime, unit: ms, dimensions: [*model_name, *level]}
    - {name: InitialisedGauge, unit: count, dimensions: [*model_name]}
  histogram:
    - {name: Spread, unit: ms, dimensions: [*model_name, *level]}
"""


def _measuring(name: str, **properties: str) -> Scenario:
    return Scenario(
        name=name,
        archives=("measured", "plain"),
        models=("measured.mar", "plain.mar"),
        properties=properties,
        files={"own-metrics.yaml": _METRICS_FILE},
        requests=(
            infer("measured prediction", "/predictions/measured", b"x"),
            infer("measured prediction of a version", "/predictions/measured/1.0", b"x"),
            infer("plain prediction", "/predictions/plain", b"x"),
            infer("prediction of no model", "/predictions/absent", b"x"),
            scrape("all metrics"),
            scrape("one metric", "/metrics?name[]=ts_inference_requests_total"),
            scrape("two metrics", "/metrics?name[]=Requests2XX&name[]=Requests4XX"),
            scrape("no metric of that name", "/metrics?name[]=absent"),
            scrape("metrics with a slash", "/metrics/"),
        ),
    )


_METRICS = (
    _measuring("metrics_prometheus", metrics_mode="prometheus"),
    _measuring("metrics_auto", metrics_mode="prometheus", model_metrics_auto_detect="true"),
    _measuring("metrics_legacy", metrics_mode="legacy"),
    _measuring("metrics_own_file", metrics_mode="prometheus",
               metrics_config="$DIRECTORY/own-metrics.yaml"),
)  # fmt: skip

# ports and limits


def _on_one_port() -> tuple[Request, ...]:
    both: tuple[Request, ...] = (
        infer("prediction", "/predictions/plain", b"x"),
        infer("ping", "/ping", method="GET"),
        infer("list", "/models", method="GET"),
        infer("describe", "/models/plain", method="GET"),
        infer("describe a version", "/models/plain/1.0", method="GET"),
        infer("describe all", "/models/plain/all", method="GET"),
        infer("register", "/models?url=stored.mar&initial_workers=1"),
        infer("invocations", "/invocations", b"x"),
        infer("invoke", "/models/plain/invoke", b"x"),
        infer("scale", "/models/plain?min_worker=1&synchronous=true", method="PUT"),
        infer("kserve readiness", "/v1/models/plain", method="GET"),
        infer("unregister", "/models/stored", method="DELETE"),
        infer("no such route", "/nowhere", method="GET"),
        infer("no model", "/predictions/absent", b"x"),
        infer("api description", "/", method="OPTIONS", view="openapi"),
    )
    return (*both, replace(both[2], name="list by the other address", port=Port.MANAGEMENT))


_COMBINED = Scenario(
    name="combined_port",
    archives=("plain", "stored"),
    models=("plain.mar",),
    combined_port=True,
    requests=_on_one_port(),
)

_LIMITS = Scenario(
    name="limits",
    archives=("inputs", "no_handler"),
    outside=("plain", "stored"),
    models=("inputs.mar", "no_handler.mar"),
    properties={
        "max_request_size": "2000",
        "max_response_size": "3000",
        "cors_allowed_origin": "https://example.org",
        "cors_allowed_methods": "GET, POST",
        "cors_allowed_headers": "X-Custom",
        "decode_input_request": "false",
        "default_service_handler": "plain.py:handle",
        "allowed_urls": "file:///nothing/.*,http://127.0.0.1:[0-9]+/plain.mar",
        "limit_max_image_pixels": "false",
        "default_response_timeout": "33",
        "default_startup_timeout": "44",
        "job_queue_size": "7",
    },
    requests=(
        infer("request of many bytes", "/predictions/inputs", b"x" * 1300),
        infer("answer too large", "/predictions/inputs", b"x" * 1990),
        infer("after the large answer", "/predictions/inputs", b"x", until=200),
        infer("request too large", "/predictions/inputs", b"x" * 2100),
        infer("request far too large", "/predictions/inputs", b"x" * 60000),
        infer("after the large request", "/predictions/inputs", b"x"),
        infer("JSON that is not decoded", "/predictions/inputs", b'{"a": 1}', headers=JSON_TYPE),
        infer("text that is not decoded", "/predictions/inputs", b"abc", headers=_TEXT),
        infer("default handler", "/predictions/no_handler", b"x"),
        infer("headers of CORS", "/ping", method="GET"),
        infer("headers of CORS with an error", "/predictions/absent", b"x"),
        infer("preflight", "/predictions/inputs", method="OPTIONS", view="openapi",
              headers=(("Origin", "https://example.org"),
                       ("Access-Control-Request-Method", "POST"))),
        manage("list", "GET", "/models"),
        manage("describe", "GET", "/models/inputs"),
        manage("register an allowed url", "POST",
               "/models?url=<<files_url>>/plain.mar&model_name=fetched"),
        manage("register another url", "POST", "/models?url=<<files_url>>/stored.mar"),
        manage("register another file", "POST", "/models?url=file:///tmp/a.mar"),
    ),
)  # fmt: skip

_ENVIRONMENT = Scenario(
    name="environment",
    archives=("behaviours", "counting"),
    models=("behaviours.mar", "renamed=behaviours.mar"),
    properties={
        "blacklist_env_vars": "SECRET_.*|OTHER_SECRET",
        "enable_envvars_config": "true",
        "default_response_timeout": "33",
        "job_queue_size": "7",
        "ts_header_key_sequence_id": "my_sequence",
        "prefer_direct_buffer": "true",
        "number_of_netty_threads": "2",
        "unknown_key": "ignored",
    },
    environment={
        "SECRET_KEY": "a",
        "OTHER_SECRET": "b",
        "OTHER_SECRET_NOT": "c",
        "OPEN": "d",
        "TS_DEFAULT_RESPONSE_TIMEOUT": "55",
    },
    requests=(
        do("environment", {"do": "environment",
                           "value": ["SECRET_KEY", "OTHER_SECRET", "OTHER_SECRET_NOT", "OPEN"]}),
        do("renamed model", {"do": "context"}, model="renamed"),
        manage("describe", "GET", "/models/behaviours"),
        manage("list", "GET", "/models"),
    ),
)  # fmt: skip

_MODELS_JSON: Final = {
    "plain": {
        "1.0": {
            "defaultVersion": True,
            "marName": "plain.mar",
            "minWorkers": 1,
            "maxWorkers": 2,
            "batchSize": 4,
            "maxBatchDelay": 50,
            "responseTimeout": 60,
            "startupTimeout": 70,
        }
    }
}

_STARTUP = (
    Scenario(
        name="startup_models_json",
        archives=("plain", "configured"),
        models=("plain.mar", "configured.mar"),
        properties={"models": json.dumps(_MODELS_JSON)},
        requests=(
            manage("describe", "GET", "/models/plain"),
            manage("describe with a YAML", "GET", "/models/configured"),
            infer("prediction", "/predictions/plain", b"x"),
        ),
    ),
    Scenario(
        name="startup_all",
        archives=("plain", "stored", "tarred", "unpacked"),
        models=("all",),
        requests=(
            manage("list", "GET", "/models"),
            manage("describe all versions", "GET", "/models/plain/all", view="status"),
            infer("prediction of a directory", "/predictions/unpacked", b"x"),
            infer("prediction of a tar", "/predictions/tarred", b"x"),
            infer("ping", "/ping", method="GET"),
        ),
    ),
)

SCENARIOS = (
    *_ENVELOPES, _TOKENS, _OIP, *_METRICS, _COMBINED, _LIMITS, _ENVIRONMENT, *_STARTUP,
)  # fmt: skip
