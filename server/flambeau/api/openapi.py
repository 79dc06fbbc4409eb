"""The OpenAPI documents of the listeners; operation ids are TorchServe's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI

from flambeau.api.openapi_answers import ANSWERS, Answers, components


def _parameter(name: str, kind: str, text: str, *, required: bool = False) -> dict[str, object]:
    return {
        "in": "query",
        "name": name,
        "description": text,
        "required": required,
        "schema": {"type": kind},
    }


_CUSTOMIZED = [_parameter("customized", "boolean", "ask a worker for its handler's description")]
_WORKERS = [
    _parameter("min_worker", "integer", "least number of workers; 1 when not given"),
    _parameter("max_worker", "integer", "most workers; `min_worker` when not given"),
    _parameter("synchronous", "boolean", "answer when it is done; false when not given"),
    _parameter("number_gpu", "integer", "accepted and ignored"),
    _parameter("timeout", "integer", "accepted and ignored"),
]
_REGISTER = [
    _parameter("url", "string", "archive in the model store, or its address", required=True),
    _parameter("handler", "string", "instead of the archive's handler"),
    _parameter("runtime", "string", "`python` or `python3`"),
    _parameter("batch_size", "integer", "most requests per handler call"),
    _parameter("max_batch_delay", "integer", "milliseconds a batch may be held back"),
    _parameter("response_timeout", "integer", "seconds one handler call may take"),
    _parameter("startup_timeout", "integer", "seconds a worker may take to be ready"),
    _parameter("initial_workers", "integer", "workers to start"),
    _parameter("s3_sse_kms", "boolean", "sign the download for S3 with SSE-KMS"),
    _parameter("sha256", "string", "what the archive's SHA-256 must be, in hexadecimal"),
]
_PAGES = [
    _parameter("limit", "integer", "entries per page, 1 to 100; 100 when not given"),
    _parameter("next_page_token", "integer", "`nextPageToken` of the page before"),
]
# query parameters by operation; those that a JSON body may carry instead have the same names
PARAMETERS: dict[str, list[dict[str, object]]] = {
    "registerModel": [
        *_REGISTER,
        _parameter("model_name", "string", "instead of the archive's name"),
        _parameter("synchronous", "boolean", "answer when workers are ready; true if not given"),
    ],
    "deployModel": _REGISTER,
    "listModels": _PAGES,
    "describeModel": _CUSTOMIZED,
    "version_describeModel": _CUSTOMIZED,
    "setAutoScale": [
        *_WORKERS,
        _parameter("model_version", "string", "the default version when not given"),
    ],
    "version_setAutoScale": _WORKERS,
    "token": [
        _parameter("type", "string", "`management` or `inference`: which to renew", required=True)
    ],
    "invocations": [_parameter("model_name", "string", "which model; may be left out for one")],
    "registerWorkflow": [
        _parameter("url", "string", "archive in the workflow store, or its address", required=True),
        _parameter("workflow_name", "string", "instead of the archive's name"),
        _parameter("response_timeout", "integer", "seconds one handler call may take"),
        _parameter("startup_timeout", "integer", "seconds a worker may take to be ready"),
        _parameter("s3_sse_kms", "boolean", "sign the download for S3 with SSE-KMS"),
        _parameter("sha256", "string", "what the archive's SHA-256 must be, in hexadecimal"),
    ],
    "listWorkflows": _PAGES,
    "metrics": [
        {
            "in": "query",
            "name": "name[]",
            "description": "names of the metrics to show; all when not given",
            "required": False,
            "schema": {"type": "array", "items": {"type": "string"}},
        }
    ],
}

# a path that TorchServe's documents have on every port
_METRICS = {
    "operationId": "metrics",
    "description": "Prometheus metrics; answered by the metrics listener",
    "parameters": PARAMETERS["metrics"],
}
_NOT_HERE = {"404": {"$ref": "#/components/responses/404"}}

# operations that take from a JSON body what they else take from the query
_JSON_BODIES = {
    *("registerModel", "deployModel", "setAutoScale", "version_setAutoScale", "registerWorkflow"),
}
_FIELDS = {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}
_INPUTS = {
    "description": "The model's input; each field of a form is one of its own",
    "content": {
        "application/json": {"schema": {}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/x-www-form-urlencoded": _FIELDS,
        "multipart/form-data": _FIELDS,
        "text/plain": {"schema": {"type": "string"}},
    },
}


def document_of(app: FastAPI) -> dict[str, Any]:
    """The application's document, in the version of TorchServe's.

    What FastAPI says of bodies and answers is replaced: our routes read and write them themselves.
    """
    whole: dict[str, Any] = app.openapi()
    keys: bool = app.state.guard.is_on
    paths = {
        path: {method: _completed(operation, keys=keys) for method, operation in item.items()}
        for path, item in whole["paths"].items()
    }
    if "/metrics" not in paths:
        elsewhere = _completed(_METRICS, keys=keys)
        paths["/metrics"] = {"get": elsewhere | {"responses": elsewhere["responses"] | _NOT_HERE}}
    return {
        "openapi": "3.0.1",
        "info": whole["info"],
        "paths": paths,
        "components": components(keys=keys),
    }


def _completed(operation: Mapping[str, Any], *, keys: bool) -> dict[str, Any]:
    name = operation["operationId"]
    answers = ANSWERS.get(name, Answers())
    found = {**operation, "responses": answers.responses(keys=keys)}
    if keys and not answers.is_open:
        found["security"] = [{"key": []}]
    if answers.may_choose:
        found["requestBody"] = _INPUTS
    elif name in _JSON_BODIES:
        found["requestBody"] = _json_body(PARAMETERS[name])
    return found


def _json_body(parameters: Iterable[Mapping[str, Any]]) -> dict[str, object]:
    """What may come in a JSON body instead of the query."""
    schema = {
        "type": "object",
        "required": [each["name"] for each in parameters if each["required"]],
        "properties": {each["name"]: each["schema"] for each in parameters},
    }
    if not schema["required"]:  # which may not be empty
        del schema["required"]
    return {"content": {"application/json": {"schema": schema}}}
