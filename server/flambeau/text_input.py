"""`TextInput`: in what form a text classifier's model takes its texts, from the archive's YAML.

handler:
  text: {ngrams: 1, padded: true, max_tokens: 128}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from flambeau.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TextInput:
    """The form of a model's texts.

    Attributes:
        ngrams: The most neighbouring words that make one token, 1 or more; None leaves it to the
            handler.
        padded: Whether the model takes tokens and a mask, (B, T) both, instead of all tokens in one
            row and the places where texts begin.
        max_tokens: How many tokens of a text count, 1 or more; None for all.
        call_cost: What a call of the model costs beside its tokens, in tokens, 0 or more; batches
            of padded texts are cut accordingly. None leaves it to the handler.
    """

    ngrams: int | None = None
    padded: bool = False
    max_tokens: int | None = None
    call_cost: int | None = None

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> TextInput:
        """Read the `text` part of a model's YAML.

        Raises:
            ConfigError: A key is unknown or a value wrong; the message names what would do.
        """
        for key in mapping:
            if key not in cls.__slots__:
                near = get_close_matches(str(key), cls.__slots__, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(cls.__slots__)}"
                raise ConfigError(f"text has the key {key!r}; {hint}")
        is_padded = mapping.get("padded", False)
        if not isinstance(is_padded, bool):
            raise ConfigError(f"text.padded is {is_padded!r}; use true or false")
        return cls(
            ngrams=_count(mapping, "ngrams", least=1),
            padded=is_padded,
            max_tokens=_count(mapping, "max_tokens", least=1),
            call_cost=_count(mapping, "call_cost", least=0),
        )


def _count(mapping: Mapping[str, Any], key: str, *, least: int) -> int | None:
    value = mapping.get(key)
    if value is None or (type(value) is int and value >= least):
        return value
    raise ConfigError(f"text.{key} is {value!r}; use a whole number, {least} or more")
