"""From the outputs of vLLM, each longer than the one before, to what clients get."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from flambeau.errors import HandlerFailed

if TYPE_CHECKING:
    from flambeau.context import Context

_LAST_EVENT: Final = "data: [DONE]\n\n"


async def plain_answer(outputs: AsyncIterator[Any], context: Context) -> str:
    """TorchServe's own form: a part for each new piece of text, with its last token."""
    num_characters, part = 0, ""
    async for output in outputs:
        completion = output.outputs[0]
        text = completion.text[num_characters:]
        num_characters = len(completion.text)
        part = json.dumps({"text": text, "tokens": completion.token_ids[-1]})
        if not output.finished:
            context.send_intermediate([part])
    return part


async def streamed_answer(
    outputs: AsyncIterator[Any], context: Context, head: dict[str, Any], *, is_chat: bool
) -> str:
    """OpenAI's server-sent events; the last is returned."""
    context.set_response_content_type(0, "text/event-stream; charset=utf-8")
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    sent: dict[int, int] = {}
    async for output in outputs:
        choices: list[dict[str, Any]] = []
        for one in output.outputs:
            text = one.text[sent.get(one.index, 0) :]
            if not text and one.finish_reason is None:
                continue
            delta: dict[str, Any] = {"content": text}
            if one.index not in sent:
                delta = {"role": "assistant", **delta}
            piece = {"delta": delta} if is_chat else {"text": text}
            sent[one.index] = len(one.text)
            choices.append({"index": one.index, **piece, "finish_reason": one.finish_reason})
        if choices:
            context.send_intermediate([_event({**head, "object": kind, "choices": choices})])
    return _LAST_EVENT


async def whole_answer(
    outputs: AsyncIterator[Any], head: dict[str, Any], *, is_chat: bool
) -> dict[str, Any]:
    """OpenAI's answer in one piece.

    Raises:
        HandlerFailed: vLLM gave nothing.
    """
    every = [output async for output in outputs]
    if not every:
        raise HandlerFailed("vLLM gave no output")
    last = every[-1]
    choices: list[dict[str, Any]] = []
    for one in last.outputs:
        message = {"role": "assistant", "content": one.text}
        piece = {"message": message} if is_chat else {"text": one.text}
        choices.append(
            {"index": one.index, **piece, "logprobs": None, "finish_reason": one.finish_reason}
        )
    num_prompt = len(last.prompt_token_ids or ())
    num_new = sum(len(one.token_ids) for one in last.outputs)
    usage = {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_new,
        "total_tokens": num_prompt + num_new,
    }
    kind = "chat.completion" if is_chat else "text_completion"
    return {**head, "object": kind, "choices": choices, "usage": usage}


def _event(document: object) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
