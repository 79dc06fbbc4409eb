"""`json`: TensorFlow Serving's REST format, `{"instances": [...]}` to `{"predictions": [...]}`."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from flambeau.codec import encode_json
from flambeau.errors import HandlerFailed, InvalidInput
from flambeau.torchserve.envelopes.samples import SampleEnvelope

if TYPE_CHECKING:
    from collections.abc import Mapping


class JSONEnvelope(SampleEnvelope):
    """Each instance is a sample; `{"b64": TEXT}`, as an instance or in one, becomes bytes."""

    def samples_of(self, document: Mapping[str, Any]) -> list[Any]:
        return [_decoded(instance) for instance in instances_of(document)]

    def answer_of(self, outputs: Any, document: Mapping[str, Any], idx: int) -> str:  # noqa: ANN401, ARG002
        """JSON text on one line, with null for NaN and infinity."""
        context = self.context
        if context is not None and not context.get_response_content_type(idx):
            context.set_response_content_type(idx, "application/json")
        return _one_line({"predictions": outputs})


def instances_of(document: Mapping[str, Any]) -> list[Any]:
    """A document's instances.

    Raises:
        InvalidInput: There is no list of this name.
    """
    instances = document.get("instances")
    if not isinstance(instances, list):
        given = ", ".join(map(repr, document)) or "nothing"
        raise InvalidInput(f'the body has {given}; send {{"instances": [...]}}')
    return instances


def _decoded(instance: object) -> object:
    match instance:
        case {"b64": _, **others} if not others:
            return _bytes_of(instance)
        case dict():
            return {name: _bytes_of(value) for name, value in instance.items()}
        case _:
            return instance


def _bytes_of(value: object) -> object:
    match value:
        case {"b64": str(text), **others} if not others:
            try:
                return base64.b64decode("".join(text.split()), validate=True)
            except ValueError as error:
                raise InvalidInput(f"the text of b64 is not base64: {error}") from error
        case _:
            return value


def _one_line(document: dict[str, Any]) -> str:
    try:
        return json.dumps(document, allow_nan=False)
    except ValueError:  # not finite, or not JSON at all
        return json.dumps(json.loads(encode_json(document)))
    except TypeError as error:
        raise HandlerFailed("Unsupported model output data type.") from error
