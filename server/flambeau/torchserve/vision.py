"""TorchServe's vision handlers, for archives whose own handlers derive from them.

Their methods take and give what TorchServe's do: `preprocess` the rows of a batch, `inference` a
stacked tensor, `postprocess` the model's output. The built-in handlers of `handlers/`, which decode
each request apart, serve archives that name one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from flambeau.answers import TopClasses, detected_objects, pixel_classes
from flambeau.errors import InvalidInput
from flambeau.explanations import IntegratedGradients, input_importances
from flambeau.handler import BaseHandler
from flambeau.image import AS_IT_IS, IMAGENET, MAX_PIXELS, ImageTransform, allow_images_of_any_size
from flambeau.image_handler import image_tensor
from flambeau.step_timing import timed
from flambeau.tensors import tensor_from_json

if TYPE_CHECKING:
    from PIL import Image

    from flambeau.context import Context


@dataclass(frozen=True, slots=True)
class ToTensor:
    """An `ImageTransform` that gives a tensor, as torchvision's transforms do."""

    transform: ImageTransform

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """A Pillow image of any mode and size to float32, (C, H, W)."""
        return torch.from_numpy(self.transform(image))


class VisionHandler(BaseHandler):
    """Decodes images; a subclass says how they are prepared, and what the answer is.

    Attributes:
        image_processing: From a Pillow image to a tensor, (C, H, W), e.g. torchvision's `Compose`.
        ig: Integrated gradients of the model, once it is loaded.
    """

    image_processing: Callable[[Image.Image], Any] = ToTensor(AS_IT_IS)
    ig: IntegratedGradients | None = None

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.ig = IntegratedGradients(self.model)
        if self._most_pixels() is None:
            allow_images_of_any_size()

    @timed
    def preprocess(self, data: Sequence[Any]) -> Any:  # noqa: ANN401  # a subclass may differ
        """The images of a batch, (B, C, H, W), on the model's device.

        Args:
            data: Rows with an image under `data` or `body`: a file's bytes, base64 text, or a
                nested list that is the model's input already.

        Raises:
            InvalidInput: One of them is no image.
        """
        return torch.stack(self.decode_image_rows(data)).to(self.device)

    def decode_image_rows(self, data: Sequence[Any]) -> list[torch.Tensor]:
        """The images of a batch, each (C, H, W), on the CPU.

        Raises:
            InvalidInput: One of them is no image.
        """
        return [self._decode_image_row(row) for row in data]

    def _decode_image_row(self, row: object) -> torch.Tensor:
        value = row
        if isinstance(row, dict):
            value = row.get("body") if row.get("data") is None else row["data"]
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, (str, bytes, bytearray)):
            return image_tensor(value, self.image_processing, max_pixels=self._most_pixels())
        if value is None:
            raise InvalidInput("the request has no image; send one as the body, or as field 'data'")
        return tensor_from_json(value, None)

    def _most_pixels(self) -> int | None:
        if self.context is None:
            return MAX_PIXELS
        is_limited = self.context.system_properties.get("limit_max_image_pixels", True)
        return MAX_PIXELS if is_limited else None

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int = 0) -> list[Any]:  # noqa: ANN401, ARG002
        """How much each number of the images adds to the score of one class."""
        gradients = self.ig or IntegratedGradients(self.model)
        return input_importances(gradients, tensor_data, target=target)


class ImageClassifier(TopClasses, VisionHandler):
    """Answers with the most probable classes."""

    image_processing = ToTensor(IMAGENET)


class ImageSegmenter(VisionHandler):
    """Answers with the class of each pixel."""

    image_processing = ToTensor(IMAGENET)

    @timed
    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # a subclass's inference
        """`{"out": logits}`, (B, C, H, W), to class and probability, (B, H, W, 2)."""
        return pixel_classes(data)


class ObjectDetector(VisionHandler):
    """Answers with what is on the image, and where.

    Attributes:
        threshold: The least score of an object that is told, 0 to 1.
    """

    threshold: float = 0.5
    check_samples = False  # a detector's outputs differ in number, and so cannot be compared

    @timed
    def preprocess(self, data: Sequence[Any]) -> Any:  # noqa: ANN401  # a subclass may differ
        """The images of a batch, a list of (C, H, W), on the model's device."""
        return [image.to(self.device) for image in self.decode_image_rows(data)]

    @timed
    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # a subclass's inference
        """What the model found in each image to the entries of its answer."""
        return detected_objects(data, threshold=self.threshold, mapping=self.mapping)
