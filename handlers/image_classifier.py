"""`image_classifier`: an image in, labels with probabilities out.

The body is an image file of any common format and size, the same as base64 text, or a JSON nested
list that is the model's input already. The answer has the most probable classes first:

    curl --data-binary @kitten.jpg http://127.0.0.1:8080/predictions/resnet
    {"tabby": 0.41, "tiger_cat": 0.33, "Egyptian_cat": 0.21, "lynx": 0.02, "plastic_bag": 0.01}

How images are prepared stands in the archive's YAML; without it the model sees them as
torchvision's ImageNet models do. Labels come from `index_to_name.json`.

    handler:
      image: {mode: L, resize: 28, size: 28, mean: [0.1307], std: [0.3081]}
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import torch

from flambeau.errors import ArchiveError, InvalidInput
from flambeau.image import IMAGENET, MAX_PIXELS, ImageTransform, decode_image
from flambeau.parity import named_outputs
from flambeau.sample_handler import Sample, SampleHandler
from flambeau.signature import TensorSpec
from flambeau.tensors import tensor_from_json

if TYPE_CHECKING:
    from flambeau.codec import Row
    from flambeau.context import Context


class ImageClassifier(SampleHandler):
    """Classifies images.

    Attributes:
        topk: The most classes in an answer.
        image_processing: From a Pillow image to the model's input, (C, H, W).
    """

    topk: int = 5
    image_processing: ImageTransform = IMAGENET

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        settings = self.model_yaml_config.get("handler")
        image = settings.get("image") if isinstance(settings, dict) else None
        if isinstance(image, dict):
            self.image_processing = ImageTransform.from_mapping(image)
        elif image is not None:
            raise ArchiveError(f"handler.image is {image!r}; write keys such as `resize: 256`")

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    def decode(self, row: Row, idx: int) -> Sample:
        value = self.value(row, "data" if "data" in row else "body", idx)
        if isinstance(value, str):
            value = _from_base64(value)
        if isinstance(value, bytearray):
            image = decode_image(value, max_pixels=MAX_PIXELS)
            return (torch.from_numpy(self.image_processing(image)),)
        return (tensor_from_json(value, self._input_spec()),)

    def _input_spec(self) -> TensorSpec:
        """The input that a client who sends numbers must match."""
        if self.signature is not None:
            return self.signature.inputs[0]
        num_channels = len(self.image_processing.mean)
        size = self.image_processing.size or (None, None)
        return TensorSpec(name="image", dtype="float32", shape=(None, num_channels, *size))

    def postprocess(self, data: Any) -> list[dict[str, float]]:  # noqa: ANN401  # models vary
        """Logits, (B, C), to the labels of the `topk` most probable classes, best first."""
        logits = next(iter(named_outputs(data).values()))
        probabilities = torch.softmax(logits.float(), dim=1)
        values, classes = probabilities.topk(min(self.topk, probabilities.shape[1]), dim=1)
        return [
            dict(zip(map(self.label, places), shares, strict=True))
            for places, shares in zip(classes.tolist(), values.tolist(), strict=True)
        ]

    def label(self, index: int) -> str:
        """The class's name, or its index as text when the archive names none."""
        return (self.mapping or {}).get(str(index), str(index))


def _from_base64(text: str) -> bytearray:
    try:
        return bytearray(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise InvalidInput(
            f"the text is not base64 ({error}); send an image file's bytes, or those as base64"
        ) from error
