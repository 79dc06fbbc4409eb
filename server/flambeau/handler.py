"""`BaseHandler`: loads a model, then preprocess, inference, postprocess; TorchServe's names.

A handler is what an archive's author writes. The worker makes one, calls `initialize(context)`
once, then `handle(data, context)` per batch; `codec.py` says what `data` holds and what may be
returned. `handlers/README.md` teaches writing one, `weights/` reads the kinds of models.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from flambeau import profiling, torchscript
from flambeau.errors import ArchiveError, HandlerFailed
from flambeau.labels import INDEX_TO_NAME, load_label_mapping
from flambeau.step_timing import timed
from flambeau.weights import eager, exported, onnx_session, pickled
from flambeau.weights.compiled import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.codec import Row
    from flambeau.context import Context

PROFILE_VARIABLE: Final = "ENABLE_TORCH_PROFILER"

_PINNED_BYTES: Final = 64 * 1024  # up to here CUDA stages copies itself, by its API's notes
_KINDS_HINT: Final = (
    "give a TorchScript program (.pt), a torch.export program or AOTInductor package (.pt2), an "
    "ONNX model (.onnx), or --model-file with weights"
)
_SO_HINT: Final = "write `pt2: {export: {aot_compile: true}}` into the model's YAML to load it"


class BaseHandler:
    """A handler for models that take one tensor and give one; override what differs.

    Methods that are not TorchServe's have long names, as subclasses bring methods of their own.

    Attributes:
        model: What `inference` calls.
        mapping: Labels by class index as text, from `index_to_name.json`; None without one.
        device: Where the model is.
        map_location: The device's type, e.g. `cpu` or `cuda`.
        initialized: Whether `initialize` has succeeded.
        context: The context of the last call.
        manifest: `MAR-INF/MANIFEST.json`, as it is.
        model_pt_path: The file the manifest names as the model's; None when it names none.
        model_yaml_config: The model's YAML, or an empty dict.
        explain: Whether the last batch asked for an explanation.
        target: The class that is explained when a request names none.
        profiler_args: Arguments for `torch.profiler.profile`.
        check_samples: Whether `inference` maps the program's inputs to its outputs, so that the
            worker can compare it with the archive's samples before it takes requests. Set it to
            False in a handler whose `inference` takes or gives something else.
    """

    check_samples: bool = True
    # for subclasses whose constructor does not call this one, of which there are many
    context: Context | None = None
    target: int = 0
    _is_traced: bool = False
    _in_place_of_model: tuple[Any, Any] | None = None  # the model, and what is called for it

    def __init__(self) -> None:
        # for the life of the worker
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device = torch.device("cpu")
        self.map_location = "cpu"
        self.initialized = False
        self.manifest: dict[str, Any] = {}
        self.model_pt_path: str | None = None
        self.model_yaml_config: dict[str, Any] = {}
        self.explain = False
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Load the model named in the manifest, and the labels beside it.

        Raises:
            ArchiveError: There is no model, or it does not load; the message says why.
        """
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        self.device = device_of(context)
        self.map_location = self.device.type
        model_dir = Path(context.system_properties["model_dir"])
        model = self.manifest.get("model", {})
        weights = model.get("serializedFile")
        self.model_pt_path = str(model_dir / weights) if weights else None
        self.model = compiled(
            self._load_model_by_kind(model_dir, model.get("modelFile")),
            self.model_yaml_config.get("pt2"),
        )
        self.mapping = load_label_mapping(model_dir / INDEX_TO_NAME)
        self.initialized = True

    def get_device(self) -> torch.device:
        return self.device

    def _load_model_by_kind(self, model_dir: Path, model_file: str | None) -> Any:  # noqa: ANN401
        """The model, by what the manifest names: a model file first, else the weights' suffix."""
        path = self.model_pt_path
        if model_file:
            model = self._load_pickled_model(str(model_dir), model_file, path)
            return model.to(self.device).eval()
        if path is None or not Path(path).is_file():
            raise ArchiveError(
                "No model weights could be loaded: the manifest names "
                f"{Path(path).name if path else 'no serialized file'!r} and no model file, and "
                "there is none; build the archive again with --serialized-file"
            )
        match Path(path).suffix:
            case ".pt" | ".pth" | ".ts":
                return self._load_torchscript_model(path)
            case ".onnx":
                return onnx_session.load(Path(path), device=self.device)
            case ".pt2":
                return exported.load(Path(path), device=self.device)
            case ".so" if self._use_torch_export_aot_compile():
                return self._load_torch_export_aot_compile(path)
            case suffix:
                hint = _SO_HINT if suffix == ".so" else _KINDS_HINT
                raise ArchiveError(
                    f"No model weights could be loaded from {Path(path).name}; {hint}"
                )

    def _load_torchscript_model(self, model_pt_path: str) -> Any:  # noqa: ANN401  # any callable
        return torchscript.load(Path(model_pt_path), device=self.device)

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: str | None
    ) -> torch.nn.Module:
        """Make the one model class of a Python file and load its weights, a state dict."""
        model = eager.make_model(Path(model_dir) / model_file)
        if model_pt_path is not None:
            allowed = pickled.is_allowed(self.model_yaml_config)
            model.load_state_dict(
                eager.read_state_dict(Path(model_pt_path), device=self.device, allow_pickle=allowed)
            )
        return model

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:  # noqa: ANN401  # any callable
        """Load what AOTInductor compiled to a `.so` file."""
        return exported.load_library(Path(model_so_path), device=self.device)

    def _use_torch_export_aot_compile(self) -> bool:
        match self.model_yaml_config.get("pt2"):
            case {"export": {"aot_compile": True}}:
                return True
            case _:
                return False

    @timed
    def preprocess(self, data: Sequence[Row]) -> Any:  # noqa: ANN401  # what inference takes
        """A batch of rows to what `inference` takes; override it for rows that are dicts."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # model's
        """Run the model, without autograd, on what `moved` moves to its device."""
        model = self.model_to_call
        with torch.inference_mode():
            return model(*(moved(item, self.device) for item in (data, *args)), **kwargs)

    def call_in_place_of_model(self, call: Any) -> None:  # noqa: ANN401  # as the model
        """Let `inference` call this, as long as `model` is the one of now; None ends it.

        `model` stays what it is, for all who read its weights and attributes.
        """
        self._in_place_of_model = None if call is None else (self.model, call)

    @property
    def model_to_call(self) -> Any:  # noqa: ANN401  # any callable
        """What `inference` calls: `model`, or what is called in its place."""
        if self._in_place_of_model is not None and self._in_place_of_model[0] is self.model:
            return self._in_place_of_model[1]
        return self.model

    @timed
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
        began_at = time.perf_counter()
        self.context = context
        if PROFILE_VARIABLE in os.environ:
            answers, _ = self._infer_with_profiler(data)
        else:
            answers = self._answer_batch(data)
        metrics: Any = context.metrics
        if metrics is not None:
            elapsed_ms = (time.perf_counter() - began_at) * 1000
            metrics.add_time("HandlerTime", round(elapsed_ms, 2), None, "ms")
        return answers

    def _answer_batch(self, data: Sequence[Row]) -> list[Any]:
        """Describe, explain or predict, whichever the first request asks for."""
        if self._is_describe():
            return [self.describe_handle()]
        with self._traced_step("preprocess"):
            inputs = self.preprocess(data)
        self.explain = self._is_explain()
        if self.explain:
            with self._traced_step("explain"):
                return self.explain_handle(inputs, data)
        with self._traced_step("inference"):
            outputs = self.inference(inputs)
        with self._traced_step("postprocess"):
            return self.postprocess(outputs)

    def _infer_with_profiler(self, data: Sequence[Row]) -> tuple[list[Any], torch.profiler.profile]:
        """Answer one batch and write a trace of it; returns the profiler beside the answers."""
        assert self.context is not None
        self._is_traced = True
        try:
            with profiling.profiler(self.context.model_name, self.profiler_args) as profile:
                answers = self._answer_batch(data)
        finally:
            self._is_traced = False
        return answers, profile

    def _traced_step(self, name: str) -> AbstractContextManager[Any]:
        """Name a part of the trace, when there is one."""
        return torch.profiler.record_function(name) if self._is_traced else nullcontext()

    def explain_handle(self, data_preprocess: Any, raw_data: Sequence[Any]) -> list[Any]:  # noqa: ANN401
        """Explain the first row, by the `get_insights(tensor, inputs, target)` of a subclass.

        `target` is the row's, a number if it can be one, or else `self.target`.
        """
        row = raw_data[0]
        inputs, target = row, None
        if isinstance(row, dict):
            inputs, target = row.get("data") or row.get("body"), _number(row.get("target"))
        answers: list[Any] = self.get_insights(data_preprocess, inputs, target or self.target)
        return answers

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any) -> list[Any]:  # noqa: ANN401, ARG002
        """Override it to answer explanations."""
        raise HandlerFailed(f"{type(self).__name__} has no get_insights, so no explanations")

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
    if gpu_id is None:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", gpu_id)
    if os.environ.get("TS_IPEX_GPU_ENABLE") == "true" and torch.xpu.is_available():
        return torch.device("xpu", gpu_id)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def moved(item: Any, device: torch.device) -> Any:  # noqa: ANN401  # whatever a model takes
    """A tensor, a list of them, or what else has `to`, on this device; anything else as it is."""
    if isinstance(item, torch.Tensor):
        return _moved_tensor(item, device)
    if isinstance(item, list) and all(isinstance(part, torch.Tensor) for part in item):
        return [_moved_tensor(part, device) for part in item]
    to = getattr(item, "to", None)
    return to(device) if callable(to) else item


def _moved_tensor(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On a CUDA device as soon as what is launched next needs it, which need not wait here.

    Large tensors go there from pinned memory, which torch keeps for the next batch; of smaller
    ones the driver makes a copy anyway.
    """
    if device.type != "cuda" or tensor.device.type != "cpu" or tensor.nbytes < _PINNED_BYTES:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _number(value: object) -> object:
    """What a form field says, if that is a number; anything else as it is."""
    if not isinstance(value, (str, bytes, bytearray)):
        return value
    try:
        return int(value)
    except ValueError:
        return value
