"""One BentoML service with its adaptive batching.

Bodies are the same bytes that all servers get, so the API reads them itself; BentoML's own types
would want them as JSON with a dimension for the batch.
"""

from __future__ import annotations

import bentoml
import numpy as np
from _bentoml_impl.serde import Serde
from _bentoml_sdk.io_models import IORootModel
from classifier import DELAY_MS, MAX_BATCH_SIZE, Classifier, decode
from starlette.requests import Request

LATENCY = {} if DELAY_MS is None else {"max_latency_ms": int(DELAY_MS)}


class Sample(IORootModel[list]):
    """One sample, (1, ...), from a body."""

    __root_input__ = True

    @classmethod
    async def from_http_request(cls, request: Request, serde: Serde) -> Sample:  # noqa: ARG003  # BentoML hands it
        return cls.model_construct(root=decode(await request.body())[np.newaxis])


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Model:
    """Answers to samples."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api(
        route="/predict",
        input_spec=Sample,
        batchable=True,
        max_batch_size=MAX_BATCH_SIZE,
        **LATENCY,
    )
    def predict(self, samples: np.ndarray) -> list[list[float]]:
        return self.classifier.predict(samples)
