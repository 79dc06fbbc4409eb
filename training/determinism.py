"""Equal seeds, equal numbers: seeding, deterministic kernels, and the generators' states."""

from __future__ import annotations

import os
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Generator


class RngStates(TypedDict):
    """The generators of one process, as plain data that loads without pickle's powers."""

    python: list[Any]
    numpy: list[Any]
    torch: torch.Tensor
    cuda: list[torch.Tensor]


@contextmanager
def deterministic(*, num_threads: int = 0) -> Generator[None, None, None]:
    """Only kernels that give the same bits every time; the caller's settings come back after.

    Args:
        num_threads: CPU threads, over which sums are spread; 0 leaves them as they are.
    """
    # cuBLAS reads it when first used: docs.nvidia.com/cuda/cublas, "Results Reproducibility"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_enabled = torch.are_deterministic_algorithms_enabled()
    was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    was_benchmark = torch.backends.cudnn.benchmark
    num_threads_before = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)  # noqa: FBT003  # torch's signature
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(num_threads or num_threads_before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_enabled, warn_only=was_warn_only)
        torch.backends.cudnn.benchmark = was_benchmark
        torch.set_num_threads(num_threads_before)


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators, CUDA's included.

    Args:
        seed: Any; numpy takes its lower 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_states() -> RngStates:
    version, internal, gauss_next = random.getstate()
    state = np.random.get_state(legacy=True)
    assert isinstance(state, tuple)  # a dict without `legacy`
    name, keys, position, has_gauss, cached = state
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [name, [int(key) for key in keys], position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_states(states: RngStates) -> None:
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
