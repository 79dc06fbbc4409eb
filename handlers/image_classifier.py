"""`image_classifier`: an image in, labels with probabilities out.

The body is an image file of any common format and size, the same as base64 text, or a JSON nested
list that is the model's input already. The answer has the most probable classes first:

    curl -T kitten.jpg http://127.0.0.1:8080/predictions/resnet
    {"tabby": 0.41, "tiger_cat": 0.33, "Egyptian_cat": 0.21, "lynx": 0.02, "plastic_bag": 0.01}

How images are prepared stands in the archive's YAML; without it the model sees them as
torchvision's ImageNet models do. Labels come from `index_to_name.json`.

    handler:
      image: {mode: L, resize: 28, size: 28, mean: [0.1307], std: [0.3081]}
"""

from __future__ import annotations

from typing import Any

from flambeau.answers import top_classes
from flambeau.image_handler import ImageHandler


class ImageClassifier(ImageHandler):
    """Classifies images.

    Attributes:
        topk: The most classes in an answer.
    """

    topk: int = 5

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    def postprocess(self, data: Any) -> list[dict[str, float]]:  # noqa: ANN401  # models vary
        """Logits, (B, C), to the labels of the `topk` most probable classes, best first."""
        return top_classes(data, topk=self.topk, mapping=self.mapping)
