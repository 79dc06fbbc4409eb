"""Shapes of answers, as the OpenAPI documents tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

Schema: TypeAlias = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
NUMBER: Final[Schema] = {"type": "number"}
OBJECT: Final[Schema] = {"type": "object"}
ANYTHING: Final[Schema] = {}


def array_of(items: Schema) -> Schema:
    """Any number of these."""
    return {"type": "array", "items": items}


def object_of(optional: Mapping[str, Schema] | None = None, /, **required: Schema) -> Schema:
    """An object with these members, and others that clients ignore."""
    members = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": members}


ERROR: Final = object_of({"reason": STRING}, code=INTEGER, type=STRING, message=STRING)
"""Of every error: its status, TorchServe's name for it, what is wrong, and the cause behind it."""

STATUS: Final = object_of(status=STRING)
NOT_READY: Final = object_of(status=STRING, reasons=array_of(STRING))
READINESS: Final = object_of({"name": STRING}, ready=BOOLEAN)

MODELS: Final = object_of(
    {"nextPageToken": STRING}, models=array_of(object_of(modelName=STRING, modelUrl=STRING))
)
DESCRIPTIONS: Final = array_of(
    object_of(
        {"customizedMetadata": ANYTHING},
        modelName=STRING,
        modelVersion=STRING,
        modelUrl=STRING,
        runtime=STRING,
        minWorkers=INTEGER,
        maxWorkers=INTEGER,
        batchSize=INTEGER,
        maxBatchDelay=INTEGER,
        responseTimeout=NUMBER,
        startupTimeout=NUMBER,
        loadedAtStartup=BOOLEAN,
        workers=array_of(object_of(id=STRING, status=STRING, pid=INTEGER, state=STRING)),
        jobQueueStatus=object_of(remainingCapacity=INTEGER, pendingRequests=INTEGER),
        status=STRING,
        reason=STRING,
    )
)
WORKFLOWS: Final = object_of(
    {"nextPageToken": STRING},
    workflows=array_of(object_of(workflowName=STRING, workflowUrl=STRING)),
)
WORKFLOW_DESCRIPTIONS: Final = array_of(
    object_of(workflowName=STRING, workflowUrl=STRING, workflowDag=STRING)
)

_TENSORS: Final = array_of(object_of(name=STRING, datatype=STRING, shape=array_of(INTEGER)))
METADATA: Final = object_of(
    name=STRING,
    versions=array_of(STRING),
    platform=STRING,
    inputs=_TENSORS,
    outputs=_TENSORS,
)
SERVER: Final = object_of(name=STRING, version=STRING, extensions=array_of(STRING))
LIVE: Final = object_of(live=BOOLEAN)
DOCUMENT: Final = object_of(openapi=STRING, info=OBJECT, paths=OBJECT)
