"""Handlers around vLLM, TensorRT-LLM and DALI, with stand-ins for these libraries."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flambeau import torchscript
from flambeau.errors import ArchiveError
from flambeau.instance import ModelInstance, Part, encode_failure
from flambeau.manifest import MANIFEST_PATH
from flambeau.messages import Chunk, Failure, InferenceRequest, LoadModel, Reply, RunBatch
from flambeau.torchserve.loading import load_handler
from tests.handlers.serving import part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("imports_are_undone")

VLLM_YAML = {"handler": {"model_path": "model", "adapters": {"fast": "adapters/fast"}}}
TRT_YAML = {
    "handler": {"tokenizer_dir": "words", "trt_llm_engine_config": {"engine_dir": "engine"}}
}


def serve(root: Path, handler: str, yaml: object) -> ModelInstance:
    """An archive that names this handler, loaded as a worker does."""
    (root / "MAR-INF").mkdir()
    model = {"modelName": "mine", "handler": handler, "configFile": "model-config.yaml"}
    (root / MANIFEST_PATH).write_text(json.dumps({"model": {**model, "serializedFile": "m.pt"}}))
    (root / "model-config.yaml").write_text(json.dumps(yaml))  # which is YAML, too
    torchscript.save(torchscript.script(torch.nn.Identity()), root / "m.pt")
    load = LoadModel("mine", "1", str(root), None, "cpu", 4, 1, 100_000, "0.1")
    return ModelInstance.load(load, load_entry_point=load_handler)


def ask(instance: ModelInstance, body: object, *, path: str = "") -> tuple[list[str], Any]:
    """The parts of one answer, and its end: parsed, as text, or a failure."""
    request = InferenceRequest(
        "id", [("url_path", path)], [part(json.dumps(body), "application/json")]
    )
    parts: list[Chunk] = []
    call = instance.call_concurrently(Part.of(RunBatch(1, [request]), [0]), parts.append)
    try:
        (result,) = asyncio.run(call)
    except Exception as error:  # noqa: BLE001  # as the worker does
        result = encode_failure(error)
    return [bytes(chunk.reply.body).decode() for chunk in parts], _end(result)


def _end(result: Reply | Failure) -> Any:  # noqa: ANN401  # JSON
    if isinstance(result, Failure):
        return result
    text = bytes(result.body).decode()
    return json.loads(text) if ("content-type", "application/json") in result.headers else text


@dataclass
class Engine:
    """Says the prompt backwards, one word at a time."""

    arguments: dict[str, Any]
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    async def generate(
        self, prompt: str, parameters: SimpleNamespace, request_id: str, lora_request: object
    ) -> AsyncIterator[SimpleNamespace]:
        self.asked.append((vars(parameters), request_id, lora_request))
        words = prompt.split()[::-1]
        for end in range(1, len(words) + 1):
            is_last = end == len(words)
            one = SimpleNamespace(
                index=0,
                text=" ".join(words[:end]),
                token_ids=list(range(end)),
                finish_reason="stop" if is_last else None,
            )
            tokens = list(range(len(words)))
            yield SimpleNamespace(outputs=[one], prompt_token_ids=tokens, finished=is_last)

    async def get_tokenizer(self) -> Engine:
        return self

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, chat_template: str | None, **_: object
    ) -> str:
        if messages[-1]["role"] != "user":
            raise ValueError("the user has the last word")
        return f"{chat_template or 'chat'} {messages[-1]['content']}"


def parameters(**values: object) -> SimpleNamespace:
    """Stands for vLLM's SamplingParams."""
    if values.get("temperature", 0) == -1:
        raise ValueError("temperature must be non-negative")
    return SimpleNamespace(**values)


def adapter(*arguments: object) -> tuple[object, ...]:
    """Stands for vLLM's LoRARequest."""
    return arguments


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """The engines that were started."""
    started: list[Engine] = []

    def start(arguments: dict[str, Any]) -> Engine:
        started.append(Engine(arguments))
        return started[-1]

    vllm, lora = ModuleType("vllm"), ModuleType("vllm.lora.request")
    vars(vllm).update(
        AsyncEngineArgs=dict,
        AsyncLLMEngine=SimpleNamespace(from_engine_args=start),
        SamplingParams=parameters,
    )
    vars(lora).update(LoRARequest=adapter)
    modules = {"vllm": vllm, "vllm.lora": ModuleType("vllm.lora"), "vllm.lora.request": lora}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return started


def test_a_completion_comes_in_one_piece(tmp_path: Path, engines: list[Engine]) -> None:
    instance = serve(tmp_path, "vllm_handler", VLLM_YAML)
    body = {"prompt": "a b c", "temperature": 0.5, "max_tokens": 9, "user": "me"}
    parts, answer = ask(instance, body, path="v1/completions")
    assert parts == []
    assert answer.pop("created") > 0
    assert answer == {
        "id": "cmpl-id",
        "object": "text_completion",
        "model": "model",
        "choices": [{"index": 0, "text": "c b a", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    }
    assert engines[0].asked == [({"temperature": 0.5, "max_tokens": 9}, "id", None)]


def test_a_completion_comes_as_events(tmp_path: Path, engines: list[Engine]) -> None:
    instance = serve(tmp_path, "vllm_handler", VLLM_YAML)
    body = {"prompt": "a b", "stream": True}
    parts, end = ask(instance, body, path="v1/completions")
    events = [json.loads(one.removeprefix("data: ")) for one in parts]
    assert all(one.endswith("\n\n") for one in parts)
    assert [one["choices"][0]["text"] for one in events] == ["b", " a"]
    assert [one["choices"][0]["finish_reason"] for one in events] == [None, "stop"]
    assert end == "data: [DONE]\n\n"


def test_a_chat_goes_through_the_models_template(tmp_path: Path, engines: list[Engine]) -> None:
    (tmp_path / "t.jinja").write_text("template")
    settings = {**VLLM_YAML["handler"], "chat_template": "t.jinja"}
    instance = serve(tmp_path, "vllm_handler", {"handler": settings})
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    _, answer = ask(instance, body, path="v1/chat/completions")
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hi template"}
    assert engines[0].asked[0][0] == {"max_tokens": None}
    parts, _ = ask(instance, {**body, "stream": True}, path="v1/chat/completions")
    deltas = [json.loads(one[6:])["choices"][0]["delta"] for one in parts]
    assert deltas == [{"role": "assistant", "content": "hi"}, {"content": " template"}]


def test_a_bare_prompt_streams_in_torchserves_form(tmp_path: Path, engines: list[Engine]) -> None:
    parts, end = ask(serve(tmp_path, "vllm_handler", VLLM_YAML), {"prompt": "a b"})
    assert [json.loads(one) for one in [*parts, end]] == [
        {"text": "b", "tokens": 0},
        {"text": " a", "tokens": 1},
    ]


def test_an_adapter_goes_by_its_name(tmp_path: Path, engines: list[Engine]) -> None:
    instance = serve(tmp_path, "vllm_handler", VLLM_YAML)
    ask(instance, {"prompt": "a", "model": "fast"}, path="v1/completions")
    ask(instance, {"prompt": "a", "lora_adapter": "fast"})
    ask(instance, {"prompt": "a", "model": "model"}, path="v1/completions")
    fast = ("fast", 1, str(tmp_path / "adapters/fast"))
    assert [asked[2] for asked in engines[0].asked] == [fast, fast, None]
    _, models = ask(instance, {}, path="v1/models")
    assert [model["id"] for model in models["data"]] == ["model", "fast"]


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({"prompt": "a"}, "v2/completions", "Unknown API endpoint: v2/completions"),
        ({"prompt": "a", "model": "other"}, "v1/completions", "`other` does not exist"),
        ({"prompt": 3}, "v1/completions", "send a string"),
        ([1], "v1/completions", "no JSON object"),
        ({"prompt": "a", "temperature": -1}, "v1/completions", "must be non-negative"),
        ({"messages": []}, "v1/chat/completions", "messages is missing"),
        (
            {"messages": [{"role": "system", "content": "a"}]},
            "v1/chat/completions",
            "the user has the last word",
        ),
    ],
)
def test_what_is_no_request_is_refused(
    tmp_path: Path, engines: list[Engine], body: object, path: str, message: str
) -> None:
    _, failure = ask(serve(tmp_path, "vllm_handler", VLLM_YAML), body, path=path)
    assert isinstance(failure, Failure)
    assert message in failure.message
    is_missing = "Unknown" in message or "exist" in message
    assert failure.status == (404 if is_missing else None)


def test_a_model_of_the_archive_is_named_by_its_folder(
    tmp_path: Path, engines: list[Engine]
) -> None:
    (tmp_path / "model").mkdir()
    settings = {"model_path": "model", "vllm_engine_config": {"max_model_len": 8}}
    serve(tmp_path, "vllm_handler", {"handler": settings})
    assert engines[0].arguments == {"model": str(tmp_path / "model"), "max_model_len": 8}


def test_a_yaml_without_a_model_is_refused(tmp_path: Path, engines: list[Engine]) -> None:
    with pytest.raises(ArchiveError, match="the YAML names no model"):
        serve(tmp_path, "vllm_handler", {})


@pytest.mark.parametrize(
    ("handler", "yaml", "message"),
    [
        ("vllm_handler", VLLM_YAML, "needs vLLM, which is not installed; pip install vllm"),
        ("trt_llm_handler", TRT_YAML, "needs tensorrt-llm, which is not installed"),
        ("dali_image_classifier", {}, "needs NVIDIA DALI, which is not installed"),
    ],
)
def test_a_library_that_is_missing_is_named(
    tmp_path: Path, handler: str, yaml: object, message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        serve(tmp_path, handler, yaml)


class Letters:
    """A tokenizer whose tokens are letters."""

    pad_token_id: int | None = None
    eos_token_id = 0

    def encode(self, text: str, **_: object) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


class Runner:
    """Goes on with the next letters of the alphabet."""

    def generate(
        self,
        *,
        batch_input_ids: list[torch.Tensor],
        max_new_tokens: int,
        streaming: bool,
        **_: object,
    ) -> dict[str, torch.Tensor] | Iterator[dict[str, torch.Tensor]]:
        (prompt,) = batch_input_ids
        last = int(prompt[-1])
        new = torch.arange(last + 1, last + 1 + max_new_tokens, dtype=torch.int32)
        padded = torch.cat([prompt, new, torch.zeros(2, dtype=torch.int32)])[None, None]
        lengths = [len(prompt) + step for step in range(1, max_new_tokens + 1)]
        steps = (
            {"output_ids": padded, "sequence_lengths": torch.tensor([[length]])}
            for length in lengths
        )
        return steps if streaming else list(steps)[-1]


def runner(*, engine_dir: str) -> Runner:
    assert engine_dir == "engine"
    return Runner()


def tokenizer(name: str, **_: object) -> Letters:
    assert name == "words"
    return Letters()


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, transformers = ModuleType("tensorrt_llm.runtime"), ModuleType("transformers")
    vars(runtime).update(ModelRunner=SimpleNamespace(from_dir=runner))
    vars(transformers).update(AutoTokenizer=SimpleNamespace(from_pretrained=tokenizer))
    modules = {
        "tensorrt_llm": ModuleType("tensorrt_llm"),
        "tensorrt_llm.runtime": runtime,
        "transformers": transformers,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("tensorrt")
def test_tensorrt_answers_in_one_piece_or_in_parts(tmp_path: Path) -> None:
    instance = serve(tmp_path, "trt_llm_handler", TRT_YAML)
    parts, answer = ask(instance, {"prompt": "ab", "max_new_tokens": 3})
    assert (parts, answer) == ([], "abcde")
    parts, answer = ask(instance, {"prompt": "ab", "max_new_tokens": 2, "streaming": True})
    assert ([json.loads(one) for one in parts], answer) == ([{"text": "c"}, {"text": "d"}], "")


@pytest.mark.usefixtures("tensorrt")
def test_tensorrt_refuses_what_is_no_request(tmp_path: Path) -> None:
    instance = serve(tmp_path, "trt_llm_handler", TRT_YAML)
    _, failure = ask(instance, {"prompt": "ab", "max_new_tokens": "many"})
    assert isinstance(failure, Failure)
    assert "is no number" in failure.message


@pytest.mark.usefixtures("tensorrt")
def test_tensorrt_needs_its_settings(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"no handler\.tokenizer_dir"):
        serve(tmp_path, "trt_llm_handler", {})


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of DALI's pipelines; each turns a file into its first three bytes."""
    made: list[dict[str, Any]] = []

    def deserialize(**arguments: object) -> SimpleNamespace:
        made.append(arguments)

        def run(source: list[Any]) -> tuple[SimpleNamespace]:
            rows = [file[:3].astype("float32") for file in source]
            return (SimpleNamespace(at=rows.__getitem__),)

        return SimpleNamespace(build=lambda: None, run=run)

    module = ModuleType("nvidia.dali.pipeline")
    vars(module).update(Pipeline=SimpleNamespace(deserialize=deserialize))
    for name in ("nvidia", "nvidia.dali"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "nvidia.dali.pipeline", module)
    return made


def test_dali_prepares_the_images_of_a_batch(
    tmp_path: Path, pipelines: list[dict[str, Any]]
) -> None:
    (tmp_path / "p.dali").write_bytes(b"")
    settings = {"pipeline_file": "p.dali", "batch_size": 4, "num_threads": 2}
    instance = serve(tmp_path, "dali_image_classifier", {"dali": settings})
    bodies = [bytes([0, 9, 1]), bytes([0, 1, 9])]
    requests = [InferenceRequest("id", [], [part(body)]) for body in bodies]
    answers = [_end(result) for result in instance.run(RunBatch(1, requests)).results]
    assert [next(iter(answer)) for answer in answers] == ["1", "2"]
    assert pipelines == [{"filename": str(tmp_path / "p.dali"), "batch_size": 4, "num_threads": 2}]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [({}, "no dali.pipeline_file"), ({"dali": {"pipeline_file": "x"}}, "names 'x', which is not")],
)
def test_dali_needs_its_settings(
    tmp_path: Path, pipelines: list[dict[str, Any]], yaml: object, message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        serve(tmp_path, "dali_image_classifier", yaml)
