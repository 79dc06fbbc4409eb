"""TorchServe's `trt_llm_handler`: language models run by TensorRT-LLM.

    handler:
      tokenizer_dir: tokenizer                    # in the archive, or a name on Hugging Face
      trt_llm_engine_config: {engine_dir: engine}  # arguments of ModelRunner.from_dir

A request is `{"prompt": "Once", "max_new_tokens": 50, "temperature": 1.0, "streaming": false}`. The
answer is the text, or with `streaming` one part `{"text": ...}` for each new token.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau.errors import ArchiveError, InvalidInput
from flambeau.handler import BaseHandler
from flambeau.torchserve.llm_request import PLAIN, LlmRequest, json_object

if TYPE_CHECKING:
    from flambeau.codec import Row
    from flambeau.context import Context


class TRTLLMHandler(BaseHandler):
    """Generates text.

    Attributes:
        trt_llm_engine: TensorRT-LLM's `ModelRunner`.
        tokenizer: Hugging Face's tokenizer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trt_llm_engine: Any = None
        self.tokenizer: Any = None

    def initialize(self, context: Context) -> None:
        """Load engine and tokenizer.

        Raises:
            ArchiveError: A library is not installed, or the YAML lacks a setting.
            Exception: Whatever the libraries raise.
        """
        runtime = _library("tensorrt_llm.runtime", "tensorrt-llm")
        transformers = _library("transformers", "transformers")
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        settings = self.model_yaml_config.get("handler") or {}
        for name in ("tokenizer_dir", "trt_llm_engine_config"):
            if name not in settings:
                raise ArchiveError(f"the YAML has no handler.{name}; trt_llm_handler needs it")
        model_dir = Path(context.system_properties["model_dir"])
        arguments = dict(settings["trt_llm_engine_config"])
        if "engine_dir" in arguments:
            arguments["engine_dir"] = _place(arguments["engine_dir"], model_dir)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            _place(settings["tokenizer_dir"], model_dir),
            padding_side="left",
            truncation_side="left",
        )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = self.tokenizer.eos_token_id
        self.trt_llm_engine = runtime.ModelRunner.from_dir(**arguments)
        self.initialized = True

    def preprocess(self, data: Sequence[Row]) -> list[tuple[torch.Tensor, dict[str, Any]]]:
        """Per request the prompt's tokens, int32, (N,), and the other fields of its body.

        Raises:
            InvalidInput: A body is no request.
        """
        prepared: list[tuple[torch.Tensor, dict[str, Any]]] = []
        for row in data:
            request = LlmRequest.from_row(row, url_path=PLAIN)
            tokens = self.tokenizer.encode(request.prompt, add_special_tokens=True, truncation=True)
            body = json_object(row.get("data") or row.get("body"))
            prepared.append((torch.tensor(tokens, dtype=torch.int32), body))
        return prepared

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """Generate for each request in turn: lists of new tokens, or of lists of them to stream."""
        return [self._generate(tokens, body) for tokens, body in data]

    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # as above
        """Texts; those to stream are sent, and end with nothing."""
        return [self._text(outputs) for outputs in data]

    def _generate(self, tokens: torch.Tensor, body: dict[str, Any]) -> Any:  # noqa: ANN401  # TensorRT's
        try:
            temperature = float(body.get("temperature", 1.0))
            max_new_tokens = int(body.get("max_new_tokens", 50))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"temperature or max_new_tokens is no number: {error}") from error
        with torch.no_grad():
            return self.trt_llm_engine.generate(
                batch_input_ids=[tokens],
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                end_id=self.tokenizer.eos_token_id,
                pad_id=self.tokenizer.pad_token_id,
                output_sequence_lengths=True,
                streaming=bool(body.get("streaming", False)),
                return_dict=True,
            )

    def _text(self, outputs: Any) -> str:  # noqa: ANN401  # TensorRT's
        if isinstance(outputs, dict):
            return self._decoded(outputs, start=0)
        assert self.context is not None
        steps: Iterable[Any] = outputs
        for output in steps:
            end = int(output["sequence_lengths"][0][0])
            part = json.dumps({"text": self._decoded(output, start=end - 1)})
            self.context.send_intermediate([part])
        return ""

    def _decoded(self, output: Any, *, start: int) -> str:  # noqa: ANN401  # TensorRT's
        """The tokens from `start` on as text; sequences are padded beyond their length."""
        end = int(output["sequence_lengths"][0][0])
        return str(self.tokenizer.decode(output["output_ids"][0][0][start:end].tolist()))


def _library(module: str, package: str) -> Any:  # noqa: ANN401  # a module
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ArchiveError(
            f"the handler needs {package}, which is not installed; pip install {package}"
        ) from error


def _place(name: object, model_dir: Path) -> str:
    path = model_dir / str(name)
    return str(path if path.exists() else name)
