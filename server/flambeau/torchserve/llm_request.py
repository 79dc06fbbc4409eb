"""What clients ask of a language model: prompts and chats as OpenAI's interface has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flambeau.codec import decode_json
from flambeau.errors import HandlerFailed, InvalidInput

COMPLETIONS: Final = "v1/completions"
CHAT: Final = "v1/chat/completions"
MODELS: Final = "v1/models"
PLAIN: Final = ""

_SAMPLING: Final = (
    *("n", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids"),
    *("max_tokens", "min_tokens", "ignore_eos", "skip_special_tokens"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LlmRequest:
    """One request.

    Attributes:
        kind: The path below the model: `COMPLETIONS`, `CHAT`, or `PLAIN` for a bare prompt.
        model: The model or adapter that the client names, if it does.
        prompt: The text to go on with; empty for a chat.
        messages: A chat's messages, each with `role` and `content`; empty for a prompt.
        stream: Whether a completion or chat is to come part by part.
        sampling: How tokens are chosen; vLLM's names, which are OpenAI's and more.
    """

    kind: str
    model: str | None
    prompt: str = ""
    messages: Sequence[Mapping[str, Any]] = ()
    stream: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], *, url_path: str) -> LlmRequest:
        """Read a request.

        Args:
            row: Has a JSON object under `data` or `body`, decoded or not.
            url_path: What follows the model in the path.

        Raises:
            HandlerFailed: There is no such path; answered with 404.
            InvalidInput: The body is no such request.
        """
        if url_path not in {COMPLETIONS, CHAT, PLAIN}:
            raise HandlerFailed(f"Unknown API endpoint: {url_path}", status=404)
        body = json_object(row.get("data") or row.get("body"))
        prompt, messages = body.get("prompt", ""), body.get("messages", [])
        if url_path == CHAT:
            if not _is_chat(messages):
                raise InvalidInput('messages is missing; send [{"role": "user", "content": "Hi"}]')
        elif not isinstance(prompt, str) or not prompt:
            raise InvalidInput("prompt is missing, or is not one text; send a string")
        sampling = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
        if body.get("max_completion_tokens") is not None:
            sampling["max_tokens"] = body["max_completion_tokens"]
        model = body.get("lora_adapter") if url_path == PLAIN else body.get("model")
        return cls(
            kind=url_path,
            model=None if model is None else str(model),
            prompt="" if url_path == CHAT else prompt,
            messages=messages if url_path == CHAT else (),
            stream=bool(body.get("stream")),
            sampling=sampling,
        )


def json_object(value: object) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        InvalidInput: It is none.
    """
    if isinstance(value, (str, bytes, bytearray)):
        try:
            value = decode_json(value.encode() if isinstance(value, str) else value)
        except ValueError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput('the body is no JSON object; send {"prompt": "..."} or a chat')
    return value


def _is_chat(messages: object) -> bool:
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(message, dict) and "role" in message for message in messages)
    )
