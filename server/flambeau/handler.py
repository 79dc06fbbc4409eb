"""`BaseHandler`: loads a model, then preprocess, inference, postprocess; TorchServe's names.

A handler is what an archive's author writes. The worker makes one, calls `initialize(context)`
once, then `handle(data, context)` per batch; `codec.py` says what `data` holds and what may be
returned. `handlers/README.md` teaches writing one.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau import torchscript
from flambeau.errors import ArchiveError
from flambeau.module_files import classes_defined_in, load_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.codec import Row
    from flambeau.context import Context

logger = logging.getLogger(__name__)

INDEX_TO_NAME = "index_to_name.json"


class BaseHandler:
    """A handler for models that take one tensor and give one; override what differs.

    Attributes:
        model: What `inference` calls.
        mapping: Labels by class index as text, from `index_to_name.json`; None without one.
        device: Where the model is.
        initialized: Whether `initialize` has succeeded.
        context: The context of the last call.
        check_samples: Whether `inference` maps the program's inputs to its outputs, so that the
            worker can compare it with the archive's samples before it takes requests. Set it to
            False in a handler whose `inference` takes or gives something else.
    """

    check_samples: bool = True

    def __init__(self) -> None:
        # for the life of the worker
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device = torch.device("cpu")
        self.map_location = "cpu"
        self.initialized = False
        self.context: Context | None = None
        self.manifest: dict[str, Any] = {}
        self.model_pt_path: str | None = None
        self.model_yaml_config: dict[str, Any] = {}
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Load the model named in the manifest, and the labels beside it.

        Raises:
            ArchiveError: There is no model, or it does not load; the message says why.
        """
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        self.device = device_of(context)
        self.map_location = self.device.type
        model_dir = Path(context.system_properties["model_dir"])
        model = self.manifest.get("model", {})
        model_file, weights = model.get("modelFile"), model.get("serializedFile")
        self.model_pt_path = str(model_dir / weights) if weights else None
        if model_file:
            self.model = self._load_pickled_model(str(model_dir), model_file, self.model_pt_path)
        elif weights and weights.endswith((".pt", ".pth", ".ts")):
            self.model = self._load_torchscript_model(str(model_dir / weights))
        else:
            raise ArchiveError(
                f"No model weights could be loaded: the manifest names {weights!r} and no model "
                "file; give a TorchScript program (model.pt), or --model-file with weights"
            )
        if "pt2" in self.model_yaml_config:
            logger.warning("pt2 settings are not supported yet; the model runs as it is")
        self.mapping = load_label_mapping(model_dir / INDEX_TO_NAME)
        self.initialized = True

    def get_device(self) -> torch.device:
        return self.device

    def _load_torchscript_model(self, model_pt_path: str) -> Any:  # noqa: ANN401  # any callable
        return torchscript.load(Path(model_pt_path), device=self.device)

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: str | None
    ) -> torch.nn.Module:
        """Make the one model class of a Python file and load its weights, a plain state dict."""
        model = _model_class(Path(model_dir) / model_file)()
        if model_pt_path is not None:
            model.load_state_dict(_load_state_dict(Path(model_pt_path), self.device))
        return model.to(self.device).eval()

    def preprocess(self, data: Sequence[Row]) -> Any:  # noqa: ANN401  # what inference takes
        """A batch of rows to what `inference` takes; override it for rows that are dicts."""
        return torch.as_tensor(data, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # model's
        """Run the model, without autograd, on tensors moved to its device."""
        with torch.inference_mode():
            moved = [item.to(self.device) if _is_tensor(item) else item for item in (data, *args)]
            return self.model(*moved, **kwargs)

    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # what inference gives
        """The outputs of a batch to a list with one item per request."""
        answers: list[Any] = data.tolist()
        return answers

    def handle(self, data: Sequence[Row], context: Context) -> list[Any]:
        """Answer one batch; all of its requests ask for the same kind of answer.

        Returns:
            One item per request, in order. An `InvalidInput` or `UnsupportedContentType` in
            place of an item fails that request alone.
        """
        self.context = context
        if self._is_describe():
            return [self.describe_handle()]
        inputs = self.preprocess(data)
        if self._is_explain():
            return self.explain_handle(inputs, data)
        return self.postprocess(self.inference(inputs))

    def explain_handle(self, data_preprocess: Any, raw_data: Sequence[Row]) -> list[Any]:  # noqa: ANN401
        """Explain the first row, by the `get_insights(tensor, inputs, target)` of a subclass."""
        row = raw_data[0]
        inputs = row.get("data") or row.get("body")
        target = int(row.get("target") or self.target)
        answers: list[Any] = self.get_insights(data_preprocess, inputs, target)
        return answers

    def get_insights(self, tensor_data: Any, raw_data: Any, target: int) -> list[Any]:  # noqa: ANN401
        """Override it to answer explanations."""
        raise NotImplementedError(f"{type(self).__name__} has no get_insights, so no explanations")

    def describe_handle(self) -> Any:  # noqa: ANN401  # anything that can be sent
        """What a customised description of the model shows; override it."""
        return None

    def _is_explain(self) -> bool:
        return self._first_header("explain") == "True"

    def _is_describe(self) -> bool:
        return self._first_header("describe") == "True"

    def _first_header(self, key: str) -> object:
        if self.context is None or not self.context.request_processor:
            return None
        return self.context.get_request_header(0, key)


def device_of(context: Context) -> torch.device:
    """The device the context names, else the CPU."""
    gpu_id = context.system_properties.get("gpu_id")
    if gpu_id is not None and torch.cuda.is_available():
        return torch.device("cuda", gpu_id)
    return torch.device("cpu")


def load_label_mapping(path: Path) -> dict[str, str] | None:
    """Read `index_to_name.json`: labels by class index as text; None when there is no such file.

    Accepts `{"0": "cat"}`, `{"0": ["n02123045", "tabby"]}` (the last item is the label) and
    `{"object_type_names": ["cat", ...]}`.

    Raises:
        ArchiveError: The file is none of these.
    """
    if not path.is_file():
        return None
    try:
        mapping = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArchiveError(f"{path.name} is not JSON ({error})") from error
    if isinstance(mapping, dict) and isinstance(mapping.get("object_type_names"), list):
        mapping = dict(enumerate(mapping["object_type_names"]))
    if not isinstance(mapping, dict):
        raise ArchiveError(f'{path.name} is not an object like {{"0": "cat", "1": "dog"}}')
    return {str(index): _label(index, value, path) for index, value in mapping.items()}


def _label(index: object, value: object, path: Path) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, (str, int)):
        raise ArchiveError(f"{path.name} names class {index} {value!r}; give text")
    return str(value)


def _model_class(path: Path) -> type[torch.nn.Module]:
    defined = classes_defined_in(load_module(path))
    classes = [value for value in defined if issubclass(value, torch.nn.Module)]
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise ArchiveError(
            f"{path.name} defines these nn.Module classes: {names}; keep exactly one in it and "
            "import its parts from another file"
        )
    return classes[0]


def _load_state_dict(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        weights = torch.load(path, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # unpickling raises many kinds
        reason = str(error).strip().partition("\n")[0]
        raise ArchiveError(
            f"{path.name} holds more than tensors, or is damaged, and is not loaded, as that could "
            f"run code ({type(error).__name__}: {reason}); save it again with "
            "torch.save(model.state_dict(), ...)"
        ) from error
    if not isinstance(weights, dict):
        raise ArchiveError(
            f"{path.name} holds a {type(weights).__name__}, not a state dict; save it again with "
            "torch.save(model.state_dict(), ...)"
        )
    return weights


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)
