"""`kservev2`: KServe's second protocol, also called the Open Inference Protocol.

A request has named inputs, tensors with a shape, a datatype and flat or nested data; each is a
sample, and what the handler gives for it is the output of the same name.
"""

from __future__ import annotations

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
        return [_nested(each) for each in inputs]

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
    """The data as a nested list, floating point if the datatype is."""
    try:
        values = np.array(data, dtype=np.float64 if kind.startswith("FP") else None)
        return values.reshape(shape).tolist()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"input {name!r} is no {kind} of shape {shape}: {error}") from error


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
