"""`ImageHandler`: one request is one image; what its answer is, a subclass says.

The body is an image file of any common format and size, the same as base64 text, or a JSON nested
list that is the model's input already. How images are prepared stands in the archive's YAML:

    handler:
      image: {mode: L, resize: 28, size: 28, mean: [0.1307], std: [0.3081]}
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from flambeau.errors import ArchiveError, InvalidInput
from flambeau.explanations import IntegratedGradients, input_importances
from flambeau.image import (
    IMAGENET,
    MAX_PIXELS,
    ImageTransform,
    allow_images_of_any_size,
    decode_image,
)
from flambeau.sample_handler import Sample, SampleHandler
from flambeau.signature import TensorSpec
from flambeau.tensors import tensor_from_json

if TYPE_CHECKING:
    from PIL import Image

    from flambeau.codec import Row
    from flambeau.context import Context


class ImageHandler(SampleHandler):
    """Decodes images; override `postprocess`.

    Attributes:
        image_processing: From a Pillow image to the model's input, (C, H, W): an `ImageTransform`
            or any callable that gives a tensor or array.
    """

    image_processing: Callable[[Image.Image], Any] = IMAGENET

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        settings = self.model_yaml_config.get("handler")
        image = settings.get("image") if isinstance(settings, dict) else None
        if isinstance(image, dict):
            self.image_processing = ImageTransform.from_mapping(image)
        elif image is not None:
            raise ArchiveError(f"handler.image is {image!r}; write keys such as `resize: 256`")
        if self.max_pixels() is None:
            allow_images_of_any_size()

    def decode(self, row: Row, idx: int) -> Sample:
        value = self.value(row, "data" if "data" in row else "body", idx)
        if isinstance(value, (str, bytes, bytearray)):
            return (image_tensor(value, self.image_processing, max_pixels=self.max_pixels()),)
        return (tensor_from_json(value, self._input_spec()),)

    def max_pixels(self) -> int | None:
        """The most pixels of an image; None when the server's settings lift the limit."""
        assert self.context is not None
        is_limited = self.context.system_properties.get("limit_max_image_pixels", True)
        return MAX_PIXELS if is_limited else None

    def _input_spec(self) -> TensorSpec | None:
        """The input that a client who sends numbers must match; None if that is not known."""
        if self.signature is not None:
            return self.signature.inputs[0]
        if not isinstance(self.image_processing, ImageTransform):
            return None
        num_channels = len(self.image_processing.mean)
        size = self.image_processing.size or (None, None)
        return TensorSpec(name="image", dtype="float32", shape=(None, num_channels, *size))

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int) -> list[Any]:  # noqa: ANN401, ARG002
        """How much each number of the image, (1, C, H, W), adds to the score of one class."""
        return input_importances(IntegratedGradients(self.model), tensor_data, target=target)


def image_tensor(
    value: str | bytes | bytearray,
    image_processing: Callable[[Image.Image], Any],
    *,
    max_pixels: int | None,
) -> torch.Tensor:
    """An image file, or one as base64 text, as a model's input, (C, H, W).

    Raises:
        InvalidInput: It is no image, damaged, or too large.
    """
    if isinstance(value, str):
        value = _from_base64(value)
    return torch.as_tensor(image_processing(decode_image(value, max_pixels=max_pixels)))


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidInput(
            f"the text is not base64 ({error}); send an image file's bytes, or those as base64"
        ) from error
