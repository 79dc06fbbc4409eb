"""A management call's arguments, wherever they came from: a query, a JSON body, gRPC fields.

TorchServe's rules for values: a number that is none counts as not given, a flag is `true` or else
false, and numbers may come as strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from flambeau.errors import BadParameter
from flambeau.strict_json import AmbiguousJSON, read_json

_MAX_LENIENT_BYTES = 16 << 10  # the lenient reader is slow; what needs it was typed by hand
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,10})(\.0+)?")


class Parameters:
    """Values by name; what a call does not know is ignored.

    Attributes:
        values: As they were given.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values

    @classmethod
    def from_json(cls, body: bytes) -> Parameters:
        """Read a JSON object; single quotes and names without quotes are understood, too.

        Raises:
            BadParameter: The body is not a JSON object.
        """
        try:
            document = read_json(body)
        except AmbiguousJSON as error:
            raise BadParameter(f"the JSON body cannot be read: {error}") from error
        except (ValueError, RecursionError) as error:
            document = _read_leniently(body)
            if document is None:
                raise BadParameter(f"the JSON body cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise BadParameter('the JSON body is not an object; give {"url": ...}')
        return cls({str(name): value for name, value in document.items()})

    def over(self, other: Parameters) -> Parameters:
        """These values, and those of `other` that these do not name."""
        return Parameters({**other.values, **self.values})

    def text(self, name: str) -> str | None:
        """A string; None when it is not given.

        Raises:
            BadParameter: A list or an object, here and below.
        """
        value = self.values.get(name)
        if isinstance(value, (list, dict)):
            raise BadParameter(f"{name} is {value!r}; give one value")
        return None if value is None else str(value)

    def number(self, name: str, default: int) -> int:
        """A whole number; anything else falls back to the default."""
        found = _WHOLE_NUMBER.fullmatch((self.text(name) or "").strip())
        return int(found[1]) if found else default

    def flag(self, name: str, *, default: bool) -> bool:
        """True for `true` in any case; the default only when it is not given."""
        text = self.text(name)
        return default if text is None else text.strip().lower() == "true"


def _read_leniently(body: bytes) -> object:
    """A short body as a YAML flow mapping, which JSON in sloppy quotes is; values are strings."""
    if len(body) > _MAX_LENIENT_BYTES or not body.lstrip().startswith(b"{"):
        return None
    try:
        # BaseLoader builds strings, lists and dicts only, and resolves no tags
        loader = yaml.BaseLoader(body.decode())
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return None
