"""`ImageHandler`: one request is one image; what its answer is, a subclass says.

The body is an image file of any common format and size, the same as base64 text, or a JSON nested
list that is the model's input already. How images are prepared stands in the archive's YAML:

    handler:
      image: {mode: L, resize: 28, size: 28, mean: [0.1307], std: [0.3081]}
      fast_jpeg: true  # decode large JPEG files at a fraction of their size, less exactly
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    from collections.abc import Sequence

    from PIL import Image

    from flambeau.codec import Row
    from flambeau.context import Context
    from flambeau.errors import RequestError


class ImageHandler(SampleHandler):
    """Decodes images; override `postprocess`.

    Attributes:
        image_processing: From a Pillow image to the model's input, (C, H, W): an `ImageTransform`
            or any callable that gives a tensor or array.
        min_edge: As for `decode_image`; by the YAML's `fast_jpeg` what images are resized to.
    """

    image_processing: Callable[[Image.Image], Any] = IMAGENET
    min_edge: int | None = None
    _decoders: ThreadPoolExecutor | None = None  # from the first batch on

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        settings = self.model_yaml_config.get("handler")
        image = settings.get("image") if isinstance(settings, dict) else None
        if isinstance(image, dict):
            self.image_processing = ImageTransform.from_mapping(image)
        elif image is not None:
            raise ArchiveError(f"handler.image is {image!r}; write keys such as `resize: 256`")
        if isinstance(settings, dict) and settings.get("fast_jpeg"):
            self.min_edge = self._least_edge()
        if self.max_pixels() is None:
            allow_images_of_any_size()

    def _least_edge(self) -> int:
        resize = getattr(self.image_processing, "resize", None)
        if not isinstance(resize, int):
            raise ArchiveError(
                "handler.fast_jpeg is set, but images are not resized; write image.resize, or "
                "leave fast_jpeg out"
            )
        return resize

    def preprocess(self, data: Sequence[Row]) -> list[Sample | RequestError]:
        """Decode each image apart, in as many threads as an operation of the model takes.

        Pillow lets the others run meanwhile. What somebody else wrote as `image_processing` might
        not bear company, so it is called for one image after the other.
        """
        num_threads = torch.get_num_threads()
        is_ours = isinstance(self.image_processing, ImageTransform)
        if num_threads == 1 or len(data) == 1 or not is_ours:
            return super().preprocess(data)
        if self._decoders is None:
            self._decoders = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
        return list(self._decoders.map(self._decoded, data, range(len(data))))

    def may_decode_ahead(self) -> bool:
        """Where `image_processing` is ours: Pillow lets the model's thread run."""
        return isinstance(self.image_processing, ImageTransform)

    def decode(self, row: Row, idx: int) -> Sample:
        value = self.value(row, "data" if "data" in row else "body", idx)
        if not isinstance(value, (str, bytes, bytearray)):
            return (tensor_from_json(value, self._input_spec()),)
        limits = {"max_pixels": self.max_pixels(), "min_edge": self.min_edge}
        return (image_tensor(value, self.image_processing, **limits),)

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
    min_edge: int | None = None,
) -> torch.Tensor:
    """An image file, or one as base64 text, as a model's input, (C, H, W).

    Args:
        value: The file or the text.
        image_processing: From a Pillow image to a tensor or array.
        max_pixels: As for `decode_image`.
        min_edge: As for `decode_image`.

    Raises:
        InvalidInput: It is no image, damaged, or too large.
    """
    if isinstance(value, str):
        value = _from_base64(value)
    image = decode_image(value, max_pixels=max_pixels, min_edge=min_edge)
    return torch.as_tensor(image_processing(image))


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidInput(
            f"the text is not base64 ({error}); send an image file's bytes, or those as base64"
        ) from error
