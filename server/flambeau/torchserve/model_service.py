"""`ModelService` and `SingleNodeService`: the classes that handlers were before BaseHandler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flambeau.context import Context


class ModelService(ABC):
    """A model with its manifest; a subclass says what `inference` does.

    Attributes:
        model_name: The name the model is registered under.
        model_dir: The unpacked archive.
        manifest: `MAR-INF/MANIFEST.json`.
        ctx: The GPU's number, or None for the CPU.
        context: What the handler's `Context` says, once `initialize` was called.
    """

    def __init__(
        self, model_name: str, model_dir: str, manifest: dict[str, Any], gpu: int | None = None
    ) -> None:
        self.model_name = model_name
        self.model_dir = model_dir
        self.manifest = manifest
        self.ctx = gpu
        self.context: Context | None = None

    def initialize(self, context: Context) -> None:
        """Take the model's name, folder and manifest from a context."""
        self.context = context
        self.model_name = context.model_name
        self.model_dir = context.system_properties["model_dir"]
        self.manifest = context.manifest
        self.ctx = context.system_properties["gpu_id"]

    @abstractmethod
    def inference(self, data: Any) -> Any:  # noqa: ANN401  # the model's
        """A batch of rows to a list of answers."""

    @abstractmethod
    def ping(self) -> Any:  # noqa: ANN401  # the author's
        """Whether the model is well."""

    @property
    def signature(self) -> Any:  # noqa: ANN401  # the manifest's
        """What the manifest says of inputs and outputs; None when it says nothing."""
        return self.manifest.get("model", {}).get("signature")

    def handle(self, data: Any, context: Context) -> Any:  # noqa: ANN401  # as `inference`
        """Answer one batch."""
        self.context = context
        return self.inference(data)


class SingleNodeService(ModelService):
    """A model whose `inference` is three steps; override `_inference` and, if need be, the rest."""

    def inference(self, data: Any) -> Any:  # noqa: ANN401  # the model's
        return self._postprocess(self._inference(self._preprocess(data)))

    def ping(self) -> Any:  # noqa: ANN401  # as the base class
        return None

    @abstractmethod
    def _inference(self, data: Any) -> Any:  # noqa: ANN401  # the model's
        """What `_preprocess` made to what the model says."""

    def _preprocess(self, data: Any) -> Any:  # noqa: ANN401  # the model's
        return data

    def _postprocess(self, data: Any) -> Any:  # noqa: ANN401  # the model's
        return data
