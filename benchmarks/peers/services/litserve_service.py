"""LitServe with its queue over ZeroMQ, which its documentation advises for many small requests."""

import os
from typing import Annotated

import litserve as ls
import numpy as np
from classifier import DELAY_MS, IS_JSON, MAX_BATCH_SIZE, Classifier, as_sample, decode
from fastapi import Body, Request


class Api(ls.LitAPI):
    """A JSON list in."""

    def setup(self, device: str) -> None:  # noqa: ARG002  # the CPU
        self.classifier = Classifier()

    def decode_request(self, request: Request) -> np.ndarray:
        return as_sample(request)

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, x: list[np.ndarray]) -> list[list[float]]:
        return self.classifier.predict(x)

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def encode_response(self, output: list[float]) -> list[float]:
        return output


class RawApi(Api):
    """Raw numbers in."""

    def decode_request(self, request: Annotated[bytes, Body()]) -> np.ndarray:
        return decode(request)


if __name__ == "__main__":
    wait = {} if DELAY_MS is None else {"batch_timeout": DELAY_MS / 1000}
    api = (Api if IS_JSON else RawApi)(max_batch_size=MAX_BATCH_SIZE, **wait)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=1,
        access_log=False,
        log_level="warning",
        generate_client_file=False,
    )
