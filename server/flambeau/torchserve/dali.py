"""TorchServe's handlers that decode images with NVIDIA DALI.

The YAML names a pipeline that the author serialised, in a file of the archive:

    dali: {batch_size: 8, num_threads: 4, device_id: 0, seed: 12, pipeline_file: pipeline.dali}
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flambeau.answers import TopClasses
from flambeau.errors import ArchiveError, InvalidInput
from flambeau.explanations import IntegratedGradients, input_importances
from flambeau.handler import BaseHandler

if TYPE_CHECKING:
    from flambeau.context import Context


def get_dali_pipeline(context: Context) -> Any:  # noqa: ANN401  # DALI is not typed
    """Build the pipeline that the YAML's `dali` names.

    Raises:
        ArchiveError: DALI is not installed, or the YAML or the file does not fit.
    """
    try:
        types: Any = importlib.import_module("nvidia.dali.pipeline")
    except ImportError as error:
        raise ArchiveError(
            "the handler needs NVIDIA DALI, which is not installed; "
            "pip install nvidia-dali-cuda120, or use the handler image_classifier"
        ) from error
    settings = context.model_yaml_config.get("dali")
    if not isinstance(settings, dict) or "pipeline_file" not in settings:
        raise ArchiveError("the YAML has no dali.pipeline_file; name a file of the archive")
    path = Path(context.system_properties["model_dir"]) / str(settings["pipeline_file"])
    if not path.is_file():
        raise ArchiveError(f"dali.pipeline_file names {path.name!r}, which is not in the archive")
    names = ("batch_size", "num_threads", "device_id", "seed")
    arguments = {name: settings[name] for name in names if name in settings}
    pipeline: Any = types.Pipeline.deserialize(filename=str(path), **arguments)
    pipeline.build()
    return pipeline


class DaliHandler(BaseHandler):
    """Hands the files of a batch to a pipeline, and its tensors to the model.

    Attributes:
        pipeline: DALI's pipeline, once the model is loaded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pipeline: Any = None

    def initialize(self, context: Context) -> None:
        self.pipeline = get_dali_pipeline(context)
        super().initialize(context)

    def preprocess(self, data: Sequence[Any]) -> Any:  # noqa: ANN401  # a subclass may differ
        """The images of a batch as the pipeline gives them, stacked, on the model's device.

        Raises:
            InvalidInput: One of them is no file.
        """
        files = [row.get("data") or row.get("body") for row in data]
        for file in files:
            if not isinstance(file, (bytes, bytearray)):
                raise InvalidInput("the request has no image; send the bytes of an image file")
        (images,) = self.pipeline.run(source=[np.frombuffer(file, np.uint8) for file in files])
        tensors = [torch.as_tensor(images.at(place)) for place in range(len(files))]
        return torch.stack(tensors).to(self.device)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int = 0) -> list[Any]:  # noqa: ANN401, ARG002
        """How much each number of the images adds to the score of one class."""
        return input_importances(IntegratedGradients(self.model), tensor_data, target=target)


class DALIImageClassifier(TopClasses, DaliHandler):
    """Answers with the most probable classes."""
