"""`MAR-INF/signature.json`: names, dtypes and shapes of a program's inputs and outputs.

Written by the exporter, read by handlers that decode raw tensors; plain data, no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flambeau.errors import ArchiveError

SIGNATURE_PATH = "MAR-INF/signature.json"
SAMPLES_PATH = "MAR-INF/samples.safetensors"
PARITY_PATH = "MAR-INF/parity.json"
PROGRAMS_PATH = "MAR-INF/programs.json"
LINEAGE_PATH = "MAR-INF/lineage.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output of a program.

    Attributes:
        name: The forward argument's name, or `output_0`, `output_1`, ...
        dtype: torch's name without the prefix, e.g. `float32`, `int64`.
        shape: Sizes with the batch first; None where any size of 1 or more is accepted. The batch
            is always None.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """The shape of one sample: without the batch dimension."""
        return self.shape[1:]


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What a program takes and gives, at least one tensor each."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise ValueError("a program takes and gives at least one tensor")

    @classmethod
    def from_json(cls, text: str | bytes) -> Signature:
        """Read a signature.

        Raises:
            ArchiveError: The text is not what `to_json` writes.
        """
        try:
            document = json.loads(text)
            return cls(
                inputs=tuple(_spec(item) for item in document["inputs"]),
                outputs=tuple(_spec(item) for item in document["outputs"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArchiveError(
                f"{SIGNATURE_PATH} is not a signature ({type(error).__name__}: {error}); "
                "export the model again"
            ) from error

    def to_json(self) -> str:
        """The document, two-space indented; an open dimension is null."""
        document = {"inputs": self.inputs, "outputs": self.outputs}
        specs = {
            key: [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in value]
            for key, value in document.items()
        }
        return json.dumps(specs, indent=2) + "\n"


def _spec(item: dict[str, Any]) -> TensorSpec:
    name, dtype, shape = item["name"], item["dtype"], item["shape"]
    if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(shape, list):
        raise TypeError(f"name {name!r}, dtype {dtype!r}, shape {shape!r}")
    if shape[:1] != [None] or not all(size is None or _is_size(size) for size in shape):
        raise ValueError(f"shape {shape!r} of {name!r}")
    return TensorSpec(name=name, dtype=dtype, shape=tuple(shape))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
