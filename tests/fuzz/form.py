"""Any content type and body of a request: refused with InvalidInput, or inputs with names."""

from __future__ import annotations

from flambeau.api.body import split_inputs
from flambeau.errors import InvalidInput


def fuzz(data: bytes) -> bool:
    """Split a body into inputs; True when there was one.

    The first line is the content type, the rest the body.
    """
    content_type, _, body = data.partition(b"\n")
    try:
        inputs = split_inputs(body, content_type=content_type.decode("latin-1"))
    except InvalidInput:
        return False
    assert inputs
    assert sum(len(each.body) for each in inputs) <= len(body)
    assert len({each.name for each in inputs}) == len(inputs)
    return all(each.name for each in inputs)
