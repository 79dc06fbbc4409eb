"""One replica of Ray Serve, with `serve.batch` as its documentation shows it."""

from __future__ import annotations

import os
import signal

import numpy as np
import ray
from classifier import DELAY_MS, MAX_BATCH_SIZE, Classifier, decode
from ray import serve
from starlette.requests import Request

WAIT = {} if DELAY_MS is None else {"batch_wait_timeout_s": DELAY_MS / 1000}


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Model:
    """Reads bodies one by one, computes them together."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, **WAIT)
    async def predict(self, samples: list[np.ndarray]) -> list[list[float]]:
        return self.classifier.predict(samples)

    async def __call__(self, request: Request) -> list[float]:
        return await self.predict(decode(await request.body()))


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        _temp_dir=os.environ["BENCH_RAY_TEMP"],
        runtime_env={"env_vars": {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}},
    )
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])},
        logging_config=quiet,
    )
    serve.run(Model.bind(), logging_config=quiet)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
