"""An answer without what differs from run to run: ids, times, process ids, memory, host names.

A recording holds masked answers, so that recording again changes nothing but what has changed. A
request's view says what of a large body is looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from flambeau.torchserve.exchange import Answer, Request

_VOLATILE_KEYS: Final = {
    "pid": 0,
    "memoryUsage": 0,
    "startTime": "<time>",
    "created": 0,
    "gpuUsage": "<gpu usage>",
    "createdOn": "<time>",
}
_UUID: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_HEX_ID: Final = re.compile(r"\b[0-9a-f]{32}\b")
_OWN_DIRECTORY: Final = re.compile(r"/tmp/ts-[a-z0-9_]+")  # noqa: S108  # a pattern, not a file
_WORKER_ID: Final = re.compile(r'("id"\s*:\s*)"\d{4,5}"')
_WORKER_NAME: Final = re.compile(r"\bW-\d{4,5}-")
_HOST_LABEL: Final = re.compile(r'(hostname|Hostname)="[^"]*"')
_COUNTED: Final = ("ts_inference_requests_total",)  # series whose values are the same in each run


def masked(request: Request, answer: Answer, *, values: Mapping[str, str] | None = None) -> Answer:
    """The answer without what differs from run to run; masking twice changes nothing.

    Args:
        request: What it answers.
        answer: What came.
        values: The values of tags; each is replaced by its tag again.
    """
    text = answer.body.decode("latin-1")
    for name, value in sorted((values or {}).items(), key=lambda item: -len(item[1])):
        text = text.replace(value, f"<<{name}>>")
    text = _UUID.sub("<uuid>", text)
    text = _OWN_DIRECTORY.sub("<directory>", text)
    text = _HEX_ID.sub("<id>", text)
    text = _WORKER_ID.sub(r'\1"<worker>"', text)
    text = _WORKER_NAME.sub("W-<worker>-", text)
    view = _VIEWS.get(request.view or "")
    text = _mask_json(text) if view is None else view(text)
    headers = tuple((name, _masked_header(name, value)) for name, value in answer.headers)
    return replace(answer, body=text.encode("latin-1"), headers=headers, duration_s=0.0)


def _masked_header(name: str, value: str) -> str:
    return "<length>" if name.lower() == "content-length" else _UUID.sub("<uuid>", value)


def _mask_json(text: str) -> str:
    """Volatile members of JSON, masked where they stand, so that the layout stays."""
    for key, value in _VOLATILE_KEYS.items():
        shown = json.dumps(value)
        text = re.sub(rf'("{key}"\s*:\s*)("(?:[^"\\]|\\.)*"|-?[\d.]+)', rf"\g<1>{shown}", text)
    return text


def _view_openapi(text: str) -> str:
    """Of an OpenAPI document: its title, and the name of each operation."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if "paths" not in document:
        return text
    operations = {
        path: {method: details.get("operationId") for method, details in sorted(item.items())}
        for path, item in sorted(document["paths"].items())
    }
    title = document.get("info", {}).get("title")
    return json.dumps({"info": {"title": title}, "paths": _with_operation_ids(operations)})


def _with_operation_ids(operations: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    return {
        path: {method: {"operationId": name} for method, name in methods.items()}
        for path, methods in operations.items()
    }


def _view_metrics(text: str) -> str:
    """Of a metrics page: each series with its value, where that is the same in each run."""
    if text.startswith("{"):
        return text  # this view already
    shown: dict[str, str] = {}
    for line in sorted(_HOST_LABEL.sub(r'\1="<host>"', line) for line in text.splitlines()):
        what, _, value = line.rpartition(" ")
        if line.startswith("# HELP"):
            _, _, name, shown_text = line.split(" ", 3)
            shown[f"HELP {name}"] = shown_text
        elif line.startswith("#"):
            shown[what.removeprefix("# ")] = value
        else:
            shown[what] = value if line.startswith(_COUNTED) else "<value>"
    return json.dumps(shown, indent=1)


def _view_outline(text: str) -> str:
    """Of a large array in JSON: its shape, its mean and its corners."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if not isinstance(document, list):
        return text
    array = np.asarray(document, dtype=np.float64)
    corners = array.reshape(-1)[[0, -1]].tolist() if array.size else []
    shown = {"shape": list(array.shape), "mean": float(array.mean()), "corners": corners}
    return json.dumps(shown, indent=1)


_VIEWS: Final[dict[str, Callable[[str], str]]] = {
    "openapi": _view_openapi,
    "metrics": _view_metrics,
    "outline": _view_outline,
}
