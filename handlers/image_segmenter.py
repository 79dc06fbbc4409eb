"""`image_segmenter`: an image in, the class of each pixel out.

The body is what `image_classifier` takes. The answer is a nested list, H x W x 2, with the most
probable class and its probability for each pixel of the image as the model saw it:

    curl -T street.jpg http://127.0.0.1:8080/predictions/fcn
    [[[7.0, 0.91], [7.0, 0.93], ...], ...]

The model gives logits, (B, C, H, W), alone or under the key `out`, as torchvision's do. Images are
prepared as the archive's YAML says, or else as torchvision's ImageNet models want them.
"""

from __future__ import annotations

from typing import Any

from flambeau.answers import pixel_classes
from flambeau.image_handler import ImageHandler


class ImageSegmenter(ImageHandler):
    """Tells the class of each pixel."""

    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # models vary
        """Logits, (B, C, H, W), to class and probability, (B, H, W, 2)."""
        return pixel_classes(data)
