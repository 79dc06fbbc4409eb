"""The OpenAPI documents of the listeners; operation ids are TorchServe's."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI


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
# query parameters by operation; those that a JSON body may carry instead have the same names
PARAMETERS: dict[str, list[dict[str, object]]] = {
    "registerModel": [
        *_REGISTER,
        _parameter("model_name", "string", "instead of the archive's name"),
        _parameter("synchronous", "boolean", "answer when workers are ready; true if not given"),
    ],
    "deployModel": _REGISTER,
    "listModels": [
        _parameter("limit", "integer", "models per page, 1 to 100; 100 when not given"),
        _parameter("next_page_token", "integer", "`nextPageToken` of the page before"),
    ],
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
}


# a path that TorchServe's documents have on every port
_METRICS = {
    "operationId": "metrics",
    "description": "Prometheus metrics; answered by the metrics listener",
    "parameters": [
        {
            "in": "query",
            "name": "name[]",
            "description": "names of the metrics to show; all when not given",
            "required": False,
            "schema": {"type": "array", "items": {"type": "string"}},
        }
    ],
    "responses": {"200": {"description": "Prometheus text exposition"}},
}


def document_of(app: FastAPI) -> dict[str, Any]:
    """The application's document, in the version of TorchServe's.

    What FastAPI says of status 422 is left away: no request is refused so.
    """
    whole: dict[str, Any] = app.openapi()
    paths = {
        path: {method: _without_422(operation) for method, operation in item.items()}
        for path, item in whole["paths"].items()
    }
    paths.setdefault("/metrics", {"get": _METRICS})
    return {"openapi": "3.0.1", "info": whole["info"], "paths": paths}


def _without_422(operation: dict[str, Any]) -> dict[str, Any]:
    responses = {code: text for code, text in operation["responses"].items() if code != "422"}
    return operation | {"responses": responses}
