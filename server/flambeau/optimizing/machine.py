"""What a measurement of speed holds for: this processor, this PyTorch, this device."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import torch

from flambeau.archive_programs import ArchiveProgram, Needs
from flambeau.devices import count_cpus
from flambeau.required_runtime import fits

_CPU_INFO: Final = Path("/proc/cpuinfo")
_IN_CODE: Final = re.compile(r"s?sse|avx|amx|fma|f16c|bmi|abm|movbe|adx|sha|vaes|vpclmul|gfni|pni")
"""Those of x86's abilities that compilers make use of by themselves."""
_FLOAT16_FLAGS: Final = frozenset({"avx512_fp16", "amx_fp16", "asimdhp"})
_BFLOAT16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86, Arm


def describe_machine(device: torch.device) -> str:
    """Processor, its abilities, CPUs, PyTorch and device in one line."""
    facts = [
        platform.machine(),
        processor(),
        " ".join(sorted(cpu_flags())),
        f"{count_cpus()} CPUs",
        f"torch {torch.__version__}",
        str(device.type),
    ]
    if device.type == "cuda":
        facts.append(torch.cuda.get_device_name(device))
    return ", ".join(facts)


def needs_of_code(device: torch.device) -> Needs:
    """What machine code that is compiled here for this device needs to run."""
    version = ".".join(torch.__version__.split(".")[:2])
    needs = Needs(device=device.type, machine=platform.machine(), torch=version)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return msgspec.structs.replace(needs, capability=f"{major}.{minor}")
    flags = cpu_flags()
    used = flags if platform.machine() != "x86_64" else {f for f in flags if _IN_CODE.match(f)}
    return msgspec.structs.replace(needs, cpu_flags=sorted(used))


def lacking(program: ArchiveProgram, device: torch.device) -> str:
    """Why a program cannot run on this device, or is not worth trying; empty if it may be."""
    needs, here = program.needs, needs_of_code(device)
    for what in ("device", "machine", "capability"):
        wanted, found = getattr(needs, what), getattr(here, what)
        if wanted and wanted != found:
            return f"it needs {what} {wanted}, and this is {found or 'none'}"
    if needs.torch and not fits(torch.__version__, needs.torch, "torch"):
        return f"it needs torch {needs.torch}, and this is {torch.__version__}"
    if missing := sorted(set(needs.cpu_flags) - cpu_flags()):
        return f"it needs a processor with {', '.join(missing)}"
    if program.precision == "bf16" and not computes_bfloat16(device):
        return "there are no instructions for bfloat16"
    if program.precision == "fp16" and not computes_float16(device):
        return "there are no instructions for float16"
    return ""


def computes_float16(device: torch.device) -> bool:
    """As `computes_bfloat16`, for float16."""
    return device.type == "cuda" or bool(_FLOAT16_FLAGS & cpu_flags())


def processor() -> str:
    """The processor's name, or its kind where it has none."""
    return _cpu_fact("model name") or platform.processor()


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
