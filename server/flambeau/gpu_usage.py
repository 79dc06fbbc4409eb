"""How busy the GPUs are, as `nvidia-smi` tells it and as TorchServe prints it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from shutil import which

_FIELDS = ("utilization.gpu", "utilization.memory", "memory.used")
_PATIENCE_S = 5.0  # an idle driver needs a second or two to wake up


async def read_gpu_usage(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The usage of each GPU by the name workers know it under, e.g. `cuda:0`.

    Empty when `nvidia-smi` is missing, fails or does not answer in time.
    """
    command = which("nvidia-smi")
    if command is None:
        return {}
    process = await asyncio.create_subprocess_exec(
        command,
        f"--query-gpu=index,uuid,{','.join(_FIELDS)}",
        "--format=csv,noheader",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        listing, _ = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return {}
    return parse_gpu_usage(
        listing.decode(errors="replace"), visible=environment.get("CUDA_VISIBLE_DEVICES")
    )


def parse_gpu_usage(listing: str, *, visible: str | None) -> dict[str, str]:
    """One text per device that workers see.

    Args:
        listing: Lines of `index, uuid` and then the fields, as `nvidia-smi` prints them.
        visible: `CUDA_VISIBLE_DEVICES`: indices or identifiers of GPUs, in the order in which
            workers count them; None for all.
    """
    by_name: dict[str, list[str]] = {}
    indices: list[str] = []
    for line in listing.splitlines():
        index, *rest = [cell.strip() for cell in line.split(",")]
        if len(rest) == 1 + len(_FIELDS):
            indices.append(index)
            by_name[index] = by_name[rest[0]] = rest[1:]
    chosen = indices if visible is None else [name.strip() for name in visible.split(",")]
    return {
        f"cuda:{place}": _usage_text(place, by_name[name])
        for place, name in enumerate(chosen)
        if name in by_name
    }


def _usage_text(place: int, values: list[str]) -> str:
    pairs = (f"{field}::{value}" for field, value in zip(_FIELDS, values, strict=True))
    return " ".join((f"gpuId::{place}", *pairs))
