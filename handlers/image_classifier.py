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

from flambeau.answers import TopClasses
from flambeau.image_handler import ImageHandler


class ImageClassifier(TopClasses, ImageHandler):
    """Classifies images."""
