"""What the services of several peers share: reading a request's numbers and calling the model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np
import torch

MAX_BATCH_SIZE = int(os.environ["BENCH_MAX_BATCH_SIZE"])
DELAY_MS = float(os.environ["BENCH_DELAY_MS"]) if os.environ["BENCH_DELAY_MS"] else None
IS_JSON = os.environ["BENCH_FORMAT"] == "json"
SHAPE = [int(size) for size in os.environ["BENCH_SHAPE"].split(",")]


class Classifier:
    """The program, loaded."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.model = torch.jit.load(os.environ["BENCH_MODEL"]).eval()
        with torch.inference_mode():
            for batch_size in (1, 1, MAX_BATCH_SIZE, MAX_BATCH_SIZE):  # the profiler's runs
                self.model(torch.zeros(batch_size, *SHAPE))

    def predict(self, samples: Sequence[np.ndarray]) -> list[list[float]]:
        """The answers to single samples."""
        batch = torch.from_numpy(np.stack(samples))
        with torch.inference_mode():
            return self.model(batch).tolist()


def decode(body: bytes) -> np.ndarray:
    """One sample of a body."""
    if IS_JSON:
        return as_sample(json.loads(body))
    return np.frombuffer(body, dtype=np.float32).reshape(SHAPE)


def as_sample(numbers: list[float]) -> np.ndarray:
    """One sample of parsed JSON."""
    return np.array(numbers, dtype=np.float32).reshape(SHAPE)
