"""One MLServer model with its adaptive batching.

A custom handler takes the bytes that all servers get and hands them to the batched `predict` as a
tensor; MLServer's own protocol would want another body.
"""

import numpy as np
from classifier import Classifier, decode
from fastapi import Request
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.context import model_context
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse


class Model(MLModel):
    """Answers to samples."""

    async def load(self) -> bool:
        self.classifier = Classifier()
        return True

    @custom_handler(rest_path="/predict")
    async def one(self, request: Request) -> list[float]:
        sample = decode(await request.body())
        payload = InferenceRequest(inputs=[NumpyCodec.encode_input("samples", sample[np.newaxis])])
        with model_context(self.settings):  # its counters of batches ask for it
            response = await self.predict(payload)
        return NumpyCodec.decode_output(response.outputs[0])[0].tolist()

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        samples = NumpyCodec.decode_input(payload.inputs[0])
        answers = np.array(self.classifier.predict(samples), dtype=np.float32)
        outputs = [NumpyCodec.encode_output("answers", answers)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
