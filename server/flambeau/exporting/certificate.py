"""Writes `MAR-INF/parity.json`: what was compared, how far it was apart, and whose proof it is.

`tolerance` at the top is that of the served program, which workers hold it to again; every program
has an entry with its own.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from flambeau.optimizing.machine import processor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.exporting.programs import Proved
    from flambeau.parity import Comparison


def certificate_json(
    proved: Sequence[Proved], *, samples_sha256: str, device: torch.device
) -> bytes:
    """The document.

    Args:
        proved: The programs with their proofs, the served one first.
        samples_sha256: Of `MAR-INF/samples.safetensors`.
        device: Where they were compared.
    """
    served = proved[0]
    document = {
        "verdict": "pass",  # else there is no archive
        "num_samples": served.proof.samples.num_samples,
        "samples_sha256": samples_sha256,
        "tolerance": asdict(served.plan.tolerance),
        "torch_version": str(torch.__version__),
        "machine": f"{platform.machine()}, {processor()}",
        "device": _device_name(device),
        "programs": [_program(each) for each in proved],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _program(proved: Proved) -> dict[str, Any]:
    plan, proof = proved.plan, proved.proof
    return {
        "file": plan.file_name,
        "target": plan.target.value,
        "precision": plan.precision.value,
        "sha256": proved.sha256,
        "verdict": "pass",
        "tolerance": asdict(plan.tolerance),
        **_errors(proof.samples),
        "batch_invariance": {"max_abs_error": proof.batch_invariance.max_abs_error},
        "sizes": [{**each.sizes, **_errors(each.comparison)} for each in proof.at_sizes],
    }


def _errors(comparison: Comparison) -> dict[str, float | None]:
    return {
        "max_abs_error": comparison.max_abs_error,
        "mean_abs_error": comparison.mean_abs_error,
        "max_rel_error": comparison.max_rel_error,
        "top1_agreement": comparison.top1_agreement,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
