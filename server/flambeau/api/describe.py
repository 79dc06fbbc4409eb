"""A version and its workers as the management API shows them.

Field names and order are TorchServe's; `status`, `reason`, `archiveDigest` and a worker's `state`,
`stage`, `selfCheck` and `reason` are ours.
"""

from __future__ import annotations

import time

from flambeau.model_version import ModelVersion
from flambeau.worker_slot import WorkerSlot, WorkerState


def describe_version(version: ModelVersion) -> dict[str, object]:
    """One version as TorchServe describes it, then our own fields."""
    settings, package = version.settings, version.package
    on_gpu = any(slot.spec.load.device != "cpu" for slot in version.slots)
    ids = {} if settings.device_ids is None else {"deviceIds": list(settings.device_ids)}
    return {
        "modelName": version.model,
        "modelVersion": version.version,
        "modelUrl": package.url,
        "runtime": package.manifest.runtime,
        "minWorkers": settings.min_workers,
        "maxWorkers": settings.max_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "responseTimeout": _whole(settings.response_timeout_s),
        "startupTimeout": _whole(settings.startup_timeout_s),
        "maxRetryTimeoutInSec": _whole(settings.max_retry_timeout_s),
        "clientTimeoutInMills": 0,
        "parallelType": "",
        "parallelLevel": 1,
        "deviceType": "gpu" if on_gpu else "cpu",
        **ids,
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": False,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 1,
        "maxSequenceJobQueueSize": 1,
        "loadedAtStartup": package.at_startup,
        "workers": [_describe_worker(slot) for slot in version.slots],
        "jobQueueStatus": {
            "remainingCapacity": version.queue_room,
            "pendingRequests": version.num_waiting,
        },
        "status": version.state.value,
        "reason": version.reason,
        "archiveDigest": package.digest,
    }


def _describe_worker(slot: WorkerSlot) -> dict[str, object]:
    started = time.localtime(slot.started_at)
    milliseconds = int(slot.started_at % 1 * 1000)
    ready = slot.state is WorkerState.READY
    on_gpu = slot.spec.load.device != "cpu"
    return {
        "id": slot.spec.worker_id,
        "startTime": f"{time.strftime('%Y-%m-%dT%H:%M:%S', started)}.{milliseconds:03d}Z",
        "status": "READY" if ready else "UNLOADING",
        "memoryUsage": slot.process.memory_bytes if slot.process else 0,
        "pid": slot.process.pid if slot.process else 0,
        "gpu": on_gpu,
        "gpuUsage": f"gpuId::{slot.spec.load.device.removeprefix('cuda:')}" if on_gpu else "N/A",
        "state": slot.state.value,
        "stage": slot.stage.value,
        "selfCheck": slot.check,
        "reason": slot.reason,
    }


def _whole(seconds: float) -> float:
    """Seconds as TorchServe prints them: without a fraction where there is none."""
    return int(seconds) if seconds == int(seconds) else seconds
