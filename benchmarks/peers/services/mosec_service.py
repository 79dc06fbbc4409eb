"""One stage: with bodies this simple, a stage of their own would only add a hop."""

from __future__ import annotations

import numpy as np
from classifier import DELAY_MS, MAX_BATCH_SIZE, Classifier, decode
from mosec import Server, Worker


class Model(Worker):
    """Decodes, computes, and answers in JSON, which is mosec's default."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    def deserialize(self, data: bytes) -> np.ndarray:
        return decode(data)

    def forward(self, data: list[np.ndarray]) -> list[list[float]]:
        return self.classifier.predict(data)


if __name__ == "__main__":
    server = Server()
    wait = {} if DELAY_MS is None else {"max_wait_time": int(DELAY_MS)}
    server.append_worker(Model, num=1, max_batch_size=MAX_BATCH_SIZE, **wait)
    server.run()
