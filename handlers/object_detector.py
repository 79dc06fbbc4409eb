"""`object_detector`: an image in, the things on it and where they are out.

The body is what `image_classifier` takes. The answer has one entry per object whose score is at
least 0.5, or `handler.threshold` of the archive's YAML, with the corners of its box in pixels:

    curl -T street.jpg http://127.0.0.1:8080/predictions/fasterrcnn
    [{"person": [167.4, 57.1, 301.3, 436.9], "score": 0.99}, ...]

The model is called as torchvision's detectors are: with a list of images, (3, H, W), in 0..1 and of
any sizes; it gives per image a dict of `boxes`, `labels` and `scores`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flambeau.answers import detected_objects
from flambeau.errors import ArchiveError, HandlerFailed
from flambeau.image import AS_IT_IS
from flambeau.image_handler import ImageHandler

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from flambeau.context import Context
    from flambeau.sample_handler import Sample


class ObjectDetector(ImageHandler):
    """Finds objects.

    Attributes:
        threshold: The least score of an object that is told, 0 to 1.
    """

    image_processing = AS_IT_IS
    threshold: float = 0.5
    check_samples = False  # a detector's outputs differ in number, and so cannot be compared

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        settings = self.model_yaml_config.get("handler")
        threshold = settings.get("threshold") if isinstance(settings, dict) else None
        if threshold is None:
            return
        if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise ArchiveError(f"handler.threshold is {threshold!r}; use 0 to 1")
        self.threshold = float(threshold)

    def sharing(self, sample: Sample) -> Hashable:  # noqa: ARG002  # all do
        """Images of all sizes share a call."""
        return None

    def collate(self, samples: Sequence[Sample]) -> tuple[Any, ...]:
        return ([image for (image,) in samples],)

    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # models vary
        """What the model found in each image to the entries of its answer."""
        return detected_objects(data, threshold=self.threshold, mapping=self.mapping)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int) -> list[Any]:  # noqa: ANN401, ARG002
        raise HandlerFailed(f"{type(self).__name__} gives no explanations")
