from __future__ import annotations

import pytest

from flambeau.errors import ConfigError
from flambeau.text_input import TextInput


def test_nothing_said_leaves_the_form_of_torchserve() -> None:
    assert TextInput.from_mapping({}) == TextInput(padded=False)


def test_every_key_is_read() -> None:
    mapping = {"ngrams": 1, "padded": True, "max_tokens": 128, "call_cost": 0}
    expected = TextInput(ngrams=1, padded=True, max_tokens=128, call_cost=0)
    assert TextInput.from_mapping(mapping) == expected


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"pad": True}, r"text has the key 'pad'; did you mean 'padded'\?"),
        ({"x": 1}, "text has the key 'x'; use ngrams, padded, max_tokens, call_cost"),
        ({"ngrams": 0}, "text.ngrams is 0; use a whole number, 1 or more"),
        ({"max_tokens": "128"}, "text.max_tokens is '128'; use a whole number"),
        ({"call_cost": True}, "text.call_cost is True; use a whole number, 0 or more"),
        ({"padded": "yes"}, "text.padded is 'yes'; use true or false"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_do(
    mapping: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TextInput.from_mapping(mapping)
