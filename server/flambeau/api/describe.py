"""A version and its workers as the management API shows them.

Field names and order are TorchServe's; `status`, `reason`, `archiveDigest`, `archiveSignature` and
a worker's `state`, `stage`, `selfCheck`, `optimization`, `isolation` and `reason` are ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from flambeau.model_version import ModelVersion
from flambeau.worker_slot import WorkerSlot, WorkerState


def describe_version(
    version: ModelVersion, *, gpu_usage: Mapping[str, str] | None = None
) -> dict[str, object]:
    """One version as TorchServe describes it, then our own fields.

    Args:
        version: What to describe.
        gpu_usage: What to say of each device, by its name, e.g. `cuda:0`.
    """
    settings, package = version.settings, version.package
    on_gpu = any(slot.spec.load.device != "cpu" for slot in version.slots)
    sequences = settings.sequence_batching
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
        "clientTimeoutInMills": settings.client_timeout_ms,
        "parallelType": settings.parallel_type,
        "parallelLevel": settings.parallel_level if settings.parallel_type else 0,
        "deviceType": "gpu" if on_gpu else "cpu",
        **ids,
        "continuousBatching": settings.continuous_batching,
        "useJobTicket": settings.use_job_ticket,
        "useVenv": settings.use_venv,
        "stateful": settings.sequence_batching,
        "sequenceMaxIdleMSec": settings.sequence_max_idle_ms,
        "sequenceTimeoutMSec": settings.sequence_timeout_ms,
        "maxNumSequence": settings.max_num_sequence if sequences else 0,
        "maxSequenceJobQueueSize": settings.max_sequence_job_queue_size if sequences else 0,
        "loadedAtStartup": package.at_startup,
        "workers": [_describe_worker(slot, gpu_usage or {}) for slot in version.slots],
        "jobQueueStatus": {
            "remainingCapacity": version.queue_room,
            "pendingRequests": version.num_waiting,
        },
        "status": version.state.value,
        "reason": version.reason,
        "archiveDigest": package.digest,
        "archiveSignature": {
            "status": package.signature.status,
            "keys": list(package.signature.keys),
            "reason": package.signature.reason,
        },
    }


def _describe_worker(slot: WorkerSlot, gpu_usage: Mapping[str, str]) -> dict[str, object]:
    started = time.localtime(slot.started_at)
    milliseconds = int(slot.started_at % 1 * 1000)
    ready = slot.state is WorkerState.READY
    device = slot.spec.load.device
    return {
        "id": slot.spec.worker_id,
        "startTime": f"{time.strftime('%Y-%m-%dT%H:%M:%S', started)}.{milliseconds:03d}Z",
        "status": "READY" if ready else "UNLOADING",
        "memoryUsage": slot.process.memory_bytes if slot.process else 0,
        "pid": slot.process.pid if slot.process else 0,
        "gpu": device != "cpu",
        "gpuUsage": gpu_usage.get(device, "N/A"),
        "state": slot.state.value,
        "stage": slot.stage.value,
        "selfCheck": slot.check,
        "optimization": slot.optimization,
        "isolation": slot.isolation,
        "reason": slot.reason,
    }


def _whole(seconds: float) -> float:
    """Seconds as TorchServe prints them: without a fraction where there is none."""
    return int(seconds) if seconds == int(seconds) else seconds
