"""`kservev2`: KServe's second protocol, also called the Open Inference Protocol.

A request has named inputs, tensors with a shape, a datatype and flat or nested data; each is a
sample, and what the handler gives for it is the output of the same name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flambeau.errors import HandlerFailed, InvalidInput
from flambeau.torchserve.envelopes.samples import SampleEnvelope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DATATYPES: Final = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""By numpy's name; what has none of these, such as text and objects, is `BYTES`."""

_MAX_INPUTS: Final = 1000
_MAX_DIMENSIONS: Final = 32

_TYPES: Final[dict[str, set[type]]] = {
    "BOOL": {bool},
    **{f"{sign}INT{bits}": {int} for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": {int, float} for bits in (16, 32, 64)},
}
"""By datatype: what its elements are in JSON."""


class KServev2Envelope(SampleEnvelope):
    """Data are nested as the shape says; of `BYTES` the first element is kept.

    The handler finds the name of each of its samples in `context.input_names`.
    """

    def parse_input(self, data: Sequence[Any]) -> list[Any]:
        inputs = super().parse_input(data)
        if self.context is not None:
            vars(self.context)["input_names"] = [each["name"] for each in inputs]
        return inputs

    def samples_of(self, document: Mapping[str, Any]) -> list[Any]:
        inputs = document.get("inputs")
        if not isinstance(inputs, list):
            given = ", ".join(map(repr, document)) or "nothing"
            raise InvalidInput(f'the body has {given}; send {{"inputs": [...]}}')
        if not 1 <= len(inputs) <= _MAX_INPUTS:
            raise InvalidInput(f"the body has {len(inputs)} inputs; send 1 to {_MAX_INPUTS}")
        samples = [_nested(each) for each in inputs]
        if len({each["name"] for each in samples}) < len(samples):
            raise InvalidInput("two inputs have the same name; give each its own")
        return samples

    def answer_of(self, outputs: Any, document: Mapping[str, Any], idx: int) -> dict[str, Any]:  # noqa: ANN401
        names = [each["name"] for each in document["inputs"]]
        context = self.context
        model = context.manifest.get("model", {}) if context is not None else {}
        asked_id = str(document.get("id") or "").strip()
        return {
            "id": asked_id or (context.get_request_id(idx) if context is not None else None),
            "model_name": model.get("modelName"),
            "model_version": model.get("modelVersion"),
            "outputs": [
                _output(values, names[place] if place < len(names) else f"output-{place}")
                for place, values in enumerate(outputs)
            ],
        }


def _nested(tensor: Any) -> dict[str, Any]:  # noqa: ANN401  # any JSON
    """An input whose data are nested as its shape says."""
    match tensor:
        case {"name": str(name), "datatype": "BYTES", "data": list(data)}:
            if not data:
                raise InvalidInput(f"input {name!r} has no data; send one element or more")
            return {**tensor, "data": data[0]}
        case {"name": str(name), "datatype": str(kind), "shape": list(shape), "data": list(data)}:
            return {**tensor, "data": _reshaped(data, shape, kind=kind, name=name)}
        case _:
            raise InvalidInput(
                "an input needs a name, a datatype, a shape and data, as in "
                '{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}'
            )


def _reshaped(data: list[Any], shape: list[Any], *, kind: str, name: str) -> Any:  # noqa: ANN401
    """The data as a nested list, floating point if the datatype is.

    Raises:
        InvalidInput: They are not what datatype and shape say; nothing is made of sizes alone.
    """
    try:
        _check_shape(shape)
        values = _elements(data, kind=kind)
        _check_count(values.size, shape)
        return values.reshape(shape).tolist()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"input {name!r} is no {kind[:20]} of shape {_short(shape)}: {error}"
        ) from error


def _check_shape(shape: list[Any]) -> None:
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"use {_MAX_DIMENSIONS} dimensions or fewer")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a shape is whole numbers, 0 or more")


def _check_count(count: int, shape: list[Any]) -> None:
    if count != math.prod(shape):
        raise ValueError(f"it has {count} elements")


def _elements(data: list[Any], *, kind: str) -> np.ndarray:
    """Flat or nested data as an array; raises ValueError unless all are of this datatype."""
    if kind not in _TYPES:
        raise ValueError(f"use one of {', '.join((*_TYPES, 'BYTES'))}")
    nested: np.ndarray | None = None
    flat = data
    if data and type(data[0]) is list:
        nested = np.array(data, dtype=object)  # else numpy makes one kind of several
        flat = nested.ravel().tolist()
    if not set(map(type, flat)) <= _TYPES[kind]:
        raise ValueError("its elements are of another kind, or ragged")
    if kind.startswith("FP"):
        return np.array(data, dtype=np.float64)
    values = np.array(data, dtype=object) if nested is None else nested
    if flat and kind != "BOOL":
        limits = np.iinfo(kind.lower())
        if not limits.min <= min(flat) <= max(flat) <= limits.max:
            raise ValueError("its elements are out of range")
    return values


def _short(shape: list[Any]) -> str:
    text = str(shape)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _output(values: object, name: str) -> dict[str, Any]:
    """One output, flat, and with the shape of that, as TorchServe answers."""
    try:
        flat = np.array(values).ravel()
    except ValueError as error:
        raise HandlerFailed(f"output {name!r} is no tensor: {error}") from error
    return {
        "name": name,
        "datatype": _DATATYPES.get(str(flat.dtype), "BYTES"),
        "data": flat.tolist(),
        "shape": list(flat.shape),
    }
