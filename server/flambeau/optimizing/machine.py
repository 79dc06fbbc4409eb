"""What a measurement of speed holds for: this processor, this PyTorch, this device."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Final

import torch

from flambeau.devices import count_cpus

_CPU_INFO: Final = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86, Arm


def describe_machine(device: torch.device) -> str:
    """Processor, its abilities, CPUs, PyTorch and device in one line."""
    facts = [
        platform.machine(),
        _cpu_fact("model name") or platform.processor(),
        " ".join(sorted(cpu_flags())),
        f"{count_cpus()} CPUs",
        f"torch {torch.__version__}",
        str(device.type),
    ]
    if device.type == "cuda":
        facts.append(torch.cuda.get_device_name(device))
    return ", ".join(facts)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, instead of imitating them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(_BFLOAT16_FLAGS & cpu_flags())


@cache
def cpu_flags() -> frozenset[str]:
    """The processor's abilities in the kernel's words; empty where it does not tell."""
    return frozenset((_cpu_fact("flags") or _cpu_fact("Features")).split())


def _cpu_fact(name: str) -> str:
    try:
        text = _CPU_INFO.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator and key.strip() == name:
            return value.strip()
    return ""
