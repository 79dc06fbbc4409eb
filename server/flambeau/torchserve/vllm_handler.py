"""TorchServe's `vllm_handler`: language models run by vLLM, behind OpenAI's interface.

    POST /predictions/{model}/{version}/v1/completions         {"prompt": "Once", "max_tokens": 20}
    POST /predictions/{model}/{version}/v1/chat/completions    {"messages": [...], "stream": true}
    GET  /predictions/{model}/{version}/v1/models
    POST /predictions/{model}                                  {"prompt": "Once"}, TorchServe's form

Set `asyncCommunication: true` in the model's YAML, so that requests are generated together:

    handler:
      model_path: model                         # in the archive, or a name on Hugging Face
      vllm_engine_config: {max_model_len: 2048}  # arguments of vLLM's engine
      adapters: {fast: adapters/fast}           # LoRA adapters by the name that clients give
      chat_template: template.jinja             # a file of the archive, or the template itself
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flambeau.errors import ArchiveError, HandlerFailed, InvalidInput
from flambeau.handler import BaseHandler
from flambeau.torchserve.llm_answer import plain_answer, streamed_answer, whole_answer
from flambeau.torchserve.llm_request import CHAT, MODELS, PLAIN, LlmRequest

if TYPE_CHECKING:
    from flambeau.codec import Row
    from flambeau.context import Context


class VLLMHandler(BaseHandler):
    """Generates text.

    Attributes:
        vllm_engine: vLLM's `AsyncLLMEngine`.
        adapters: Folders of LoRA adapters by name.
        model_names: What clients may call the model itself; the first is what answers name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vllm_engine: Any = None
        self.adapters: dict[str, str] = {}
        self.model_names: list[str] = []
        self._vllm: Any = None
        self._chat_template: str | None = None

    def initialize(self, context: Context) -> None:
        """Start vLLM's engine.

        Raises:
            ArchiveError: vLLM is not installed, or the YAML names no model.
            Exception: Whatever vLLM raises.
        """
        try:
            self._vllm = importlib.import_module("vllm")
        except ImportError as error:
            raise ArchiveError(
                "the handler needs vLLM, which is not installed; pip install vllm"
            ) from error
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        settings = self.model_yaml_config.get("handler") or {}
        model_dir = Path(context.system_properties["model_dir"])
        self.adapters = {
            name: str(model_dir / path) for name, path in (settings.get("adapters") or {}).items()
        }
        template = settings.get("chat_template")
        if template is not None:
            path = model_dir / str(template)
            is_file = "\n" not in str(template) and len(str(template)) < 256 and path.is_file()
            self._chat_template = path.read_text(encoding="utf-8") if is_file else str(template)
        arguments = dict(settings.get("vllm_engine_config") or {})
        arguments["model"] = _model(arguments, settings, model_dir)
        names = arguments.get("served_model_name") or [arguments["model"]]
        names = [names] if isinstance(names, str) else list(names)
        self.model_names = [*names, context.model_name, str(settings.get("model_path", names[0]))]
        self.vllm_engine = self._vllm.AsyncLLMEngine.from_engine_args(
            self._vllm.AsyncEngineArgs(**arguments)
        )
        self.initialized = True

    async def handle(self, data: Sequence[Row], context: Context) -> list[Any]:  # type: ignore[override]  # a coroutine
        """Answer one request; others are answered meanwhile.

        Raises:
            HandlerFailed: The path is unknown, or the model is, with 404; or there are several
                requests.
            InvalidInput: The body is no request.
        """
        began_at = time.perf_counter()
        if len(data) != 1:
            raise HandlerFailed(
                "vllm_handler takes one request at a time and runs them together by itself; write "
                "`asyncCommunication: true` into the model's YAML"
            )
        url_path = str(context.get_request_header(0, "url_path") or "").strip("/")
        if url_path == MODELS:
            answer: object = self._models()
        else:
            request = LlmRequest.from_row(data[0], url_path=url_path)
            answer = await self._generate(request, context)
        metrics: Any = context.metrics
        if metrics is not None:
            elapsed_ms = (time.perf_counter() - began_at) * 1000
            metrics.add_time("HandlerTime", round(elapsed_ms, 2), None, "ms")
        return [answer]

    async def _generate(self, request: LlmRequest, context: Context) -> object:
        outputs = self._outputs(request, context, prompt=await self._prompt(request))
        if request.kind == PLAIN:
            return await plain_answer(outputs, context)
        head = {
            "id": f"{'chatcmpl' if request.kind == CHAT else 'cmpl'}-{context.get_request_id(0)}",
            "created": int(time.time()),
            "model": request.model or self.model_names[0],
        }
        if request.stream:
            return await streamed_answer(outputs, context, head, is_chat=request.kind == CHAT)
        return await whole_answer(outputs, head, is_chat=request.kind == CHAT)

    async def _prompt(self, request: LlmRequest) -> str:
        if request.kind != CHAT:
            return request.prompt
        tokenizer = self.vllm_engine.get_tokenizer()
        if inspect.isawaitable(tokenizer):
            tokenizer = await tokenizer
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(request.messages),
                    chat_template=self._chat_template,
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        except Exception as error:  # templates are programs and raise anything
            raise InvalidInput(f"the model's chat template refuses messages: {error}") from error

    def _outputs(self, request: LlmRequest, context: Context, *, prompt: str) -> AsyncIterator[Any]:
        """The growing outputs of vLLM."""
        sampling = dict(request.sampling)
        if request.kind == CHAT:
            sampling.setdefault("max_tokens", None)  # as many as fit
        try:
            parameters = self._vllm.SamplingParams(**sampling)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the request cannot be generated: {error}") from error
        outputs: AsyncIterator[Any] = self.vllm_engine.generate(
            prompt, parameters, context.get_request_id(0), lora_request=self._adapter(request.model)
        )
        return outputs

    def _adapter(self, name: str | None) -> Any:  # noqa: ANN401  # vLLM's LoRARequest
        """The adapter that a request names; None for the model itself."""
        if name is None or name in self.model_names:
            return None
        if name not in self.adapters:
            raise HandlerFailed(f"The model `{name}` does not exist.", status=404)
        lora: Any = importlib.import_module("vllm.lora.request")
        number = list(self.adapters).index(name) + 1
        return lora.LoRARequest(name, number, self.adapters[name])

    def _models(self) -> dict[str, Any]:
        names = [self.model_names[0], *self.adapters]
        cards = [{"id": name, "object": "model", "owned_by": "vllm"} for name in names]
        return {"object": "list", "data": cards}


def _model(arguments: dict[str, Any], settings: dict[str, Any], model_dir: Path) -> str:
    """The model's folder in the archive, or its name elsewhere."""
    name = arguments.get("model") or settings.get("model_path")
    if not name:
        raise ArchiveError(
            "the YAML names no model; write `handler: {model_path: ...}`, a folder of the archive "
            "or a name on Hugging Face"
        )
    path = model_dir / str(name)
    return str(path if path.exists() else name)
