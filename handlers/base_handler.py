"""`base_handler`: numbers in, numbers out, for any model that takes and gives tensors.

One request is one sample, without a batch dimension. It comes as JSON, a nested list, or as raw
little-endian bytes when the archive has a signature. A model with several inputs takes a JSON
object, or a form with one field per input. The answer is the sample's output as a nested list, or
an object of them when the model has several outputs.

    curl -H 'content-type: application/json' -d '[[0.1, 0.2], [0.3, 0.4]]' .../predictions/mine
    curl -H 'content-type: application/octet-stream' --data-binary @sample.f32 .../predictions/mine
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flambeau.errors import InvalidInput, UnsupportedContentType
from flambeau.parity import named_outputs
from flambeau.sample_handler import Sample, SampleHandler
from flambeau.tensors import batch_from_bytes, tensor_from_bytes, tensor_from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from flambeau.codec import Row
    from flambeau.signature import TensorSpec

_RAW_TYPES: Final = {None, "application/octet-stream"}


class TensorHandler(SampleHandler):
    """Tensors as JSON or raw bytes."""

    def decode(self, row: Row, idx: int) -> Sample:
        specs = [None] if self.signature is None else self.signature.inputs
        only = len(specs) == 1
        fields = self._fields(row, idx)
        return tuple(_decode_input(fields, spec, only=only) for spec in specs)

    def _fields(self, row: Row, idx: int) -> Row:
        """The request's values by name; a `bytearray` among them is raw numbers."""
        names = {"data", "body"}
        if self.signature is not None:
            names |= {spec.name for spec in self.signature.inputs}
        fields = {name: self._numbers(row, name, idx) for name in row if name in names}
        body = fields.get("body")
        return body if isinstance(body, dict) and len(fields) == 1 else fields

    def _numbers(self, row: Row, name: str, idx: int) -> object:
        """One field as parsed JSON, or as the `bytearray` that it is."""
        value = self.value(row, name, idx)
        assert self.context is not None
        content_type = self.context.get_input_content_type(idx, name)
        if content_type == "application/json" or content_type in _RAW_TYPES:
            return value
        raise UnsupportedContentType(
            f"{name} is {content_type}, but this model takes numbers; send application/json or "
            "application/octet-stream"
        )

    def stacked(self, data: Sequence[Row]) -> tuple[torch.Tensor, ...] | None:
        """Raw bodies of equal lengths, for a model with one input."""
        specs = () if self.signature is None else self.signature.inputs
        if len(specs) != 1 or self._decodes_otherwise():
            return None
        (spec,) = specs
        bodies: list[bytearray] = []
        for idx, row in enumerate(data):
            body = self._raw_body(row, idx, spec.name)
            if body is None or len(body) != len(bodies[0] if bodies else body):
                return None
            bodies.append(body)
        try:
            return (batch_from_bytes(bodies, spec),)
        except InvalidInput:
            return None  # `decode` tells each

    def _raw_body(self, row: Row, idx: int, input_name: str) -> bytearray | None:
        """The request's only field, if it is raw numbers."""
        assert self.context is not None
        for name, value in row.items():
            if (
                len(row) == 1
                and isinstance(value, bytearray)
                and name in {"body", "data", input_name}
                and self.context.get_input_content_type(idx, name) in _RAW_TYPES
            ):
                return value
        return None

    def _decodes_otherwise(self) -> bool:
        """Whether a subclass decides what becomes of a row."""
        return any(
            getattr(type(self), name) is not getattr(TensorHandler, name)
            for name in ("preprocess", "decode", "value", "sharing", "collate")
        )

    def postprocess(self, data: Any) -> list[Any]:  # noqa: ANN401  # what models return varies
        """Nested lists; with several outputs an object of them per sample."""
        outputs = named_outputs(data)
        columns: list[list[Any]] = [output.tolist() for output in outputs.values()]
        if len(columns) == 1:
            return columns[0]
        names = list(outputs)
        if self.signature is not None and len(self.signature.outputs) == len(names):
            names = [spec.name for spec in self.signature.outputs]
        return [dict(zip(names, parts, strict=True)) for parts in zip(*columns, strict=True)]


def _decode_input(fields: Row, spec: TensorSpec | None, *, only: bool) -> torch.Tensor:
    """One input: the value of its name, or, when it is the only one, `data` or `body`."""
    names = [] if spec is None else [spec.name]
    names += ["data", "body"] if only else []
    name = next((name for name in names if name in fields), None)
    if name is None:
        given = ", ".join(map(repr, fields)) or "no field it knows"
        raise InvalidInput(f"the request has {given}, expected {' or '.join(map(repr, names))}")
    value = fields[name]
    if not isinstance(value, bytearray):
        return tensor_from_json(value, spec)
    if spec is None:
        raise InvalidInput(
            "raw bytes have a meaning only with a signature, which this archive lacks; send JSON "
            "with content-type: application/json"
        )
    return tensor_from_bytes(value, spec)
