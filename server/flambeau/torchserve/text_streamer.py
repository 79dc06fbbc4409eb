"""`TextIteratorStreamerBatch`: the text of several sequences while a model generates them.

    streamer = TextIteratorStreamerBatch(tokenizer, batch_size=len(prompts), skip_prompt=True)
    Thread(target=model.generate, kwargs={**inputs, "streamer": streamer}).start()
    for texts in streamer:
        context.send_intermediate(texts)

It has the methods that Hugging Face's `generate` calls, and needs no transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from typing import Any, Protocol

import torch


class Tokenizer(Protocol):
    """What turns tokens into text."""

    @property
    def decode(self) -> Callable[..., str]:
        """From a list of token ids; takes `decode_kwargs`, too."""
        ...


class TextIteratorStreamerBatch:
    """Iterates over lists with the new text of each sequence, until all have ended."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        batch_size: int,
        skip_prompt: bool = False,  # noqa: FBT001, FBT002  # TorchServe's signature
        timeout: float | None = None,
        **decode_kwargs: Any,  # noqa: ANN401  # the tokenizer's
    ) -> None:
        """Wait for tokens.

        Args:
            tokenizer: Of the model that generates.
            batch_size: How many sequences are generated together.
            skip_prompt: Leave out what `generate` hands over first, the prompts.
            timeout: Seconds to wait for new text; None waits without end.
            decode_kwargs: For `tokenizer.decode`, e.g. `skip_special_tokens=True`.
        """
        # for the life of one generation
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.skip_prompt = skip_prompt
        self.timeout = timeout
        self.decode_kwargs = decode_kwargs
        self._texts: Queue[list[str] | None] = Queue()
        self._is_first = True
        # of each sequence: tokens since its last line, and how much of their text is out
        self._tokens: list[list[int]] = [[] for _ in range(batch_size)]
        self._num_sent = [0] * batch_size

    def put(self, value: torch.Tensor) -> None:
        """Take the next tokens: (B,), or (B, T) at first.

        Raises:
            ValueError: They are not those of as many sequences as `batch_size` says.
        """
        tokens_BT = value[:, None] if value.ndim == 1 else value
        if tokens_BT.ndim != 2 or len(tokens_BT) != self.batch_size:
            raise ValueError(
                f"tokens of shape {tuple(value.shape)} for batch_size {self.batch_size}; give "
                "one row for each sequence"
            )
        is_prompt, self._is_first = self._is_first, False
        if is_prompt and self.skip_prompt:
            return
        rows: list[list[int]] = tokens_BT.tolist()
        self._texts.put([self._new_text(idx, row) for idx, row in enumerate(rows)])

    def end(self) -> None:
        """Give out what was held back; the iteration ends after it."""
        self._is_first = True
        self._texts.put([self._rest(idx) for idx in range(self.batch_size)])
        self._texts.put(None)

    def __iter__(self) -> TextIteratorStreamerBatch:
        return self

    def __next__(self) -> list[str]:
        """New text by sequence; raises queue.Empty after `timeout` seconds without any."""
        texts = self._texts.get(timeout=self.timeout)
        if texts is None:
            raise StopIteration
        return texts

    def _new_text(self, idx: int, tokens: list[int]) -> str:
        """What is certain of a sequence's text: the last word may still grow, or change."""
        self._tokens[idx] += tokens
        text = self._decoded(idx)
        if text.endswith("\n"):
            return self._rest(idx)
        end = len(text) if _is_ideograph(text[-1:]) else text.rfind(" ") + 1
        new = text[self._num_sent[idx] : end]
        self._num_sent[idx] += len(new)
        return new

    def _rest(self, idx: int) -> str:
        new = self._decoded(idx)[self._num_sent[idx] :]
        self._tokens[idx].clear()
        self._num_sent[idx] = 0
        return new

    def _decoded(self, idx: int) -> str:
        tokens = self._tokens[idx]
        return self.tokenizer.decode(tokens, **self.decode_kwargs) if tokens else ""


def _is_ideograph(character: str) -> bool:
    """Whether it is a word of its own: in the blocks of CJK ideographs."""
    return any(
        first <= character <= last
        for first, last in (
            ("\u3400", "\u9fff"),
            ("\uf900", "\ufaff"),
            ("\U00020000", "\U0003ffff"),
        )
    )
