"""What the Open Inference Protocol tells of a model, in its words for types and shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flambeau.errors import ArchiveError
from flambeau.model_version import ModelVersion, VersionState
from flambeau.registry import Registry
from flambeau.signature import SIGNATURE_PATH, Signature, TensorSpec

SERVER_NAME: Final = "Torchserve"  # what its clients know
EXTENSIONS: Final = ("kserve", "kubeflow")

_DATATYPES: Final[Mapping[str, str]] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorMetadata:
    """One input or output.

    Attributes:
        name: As the model calls it.
        datatype: The protocol's word, e.g. `FP32`.
        shape: Sizes with the batch first; -1 where any is accepted.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMetadata:
    """One model; inputs and outputs are empty when its archive does not describe them."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


async def read_model_metadata(
    registry: Registry, model: str, version: str | None = None
) -> ModelMetadata:
    """Describe a model by one of its versions; the default one when `version` is None.

    Raises:
        ModelNotFound, ModelVersionNotFound: No such entry.
        ArchiveError: The archive's description cannot be read.
    """
    found = registry.resolve(model, version)
    signature = await asyncio.to_thread(_read_signature, found)
    return ModelMetadata(
        name=model,
        versions=tuple(each.version for each in registry.versions(model)),
        platform="",
        inputs=tuple(map(_tensor, signature.inputs)) if signature else (),
        outputs=tuple(map(_tensor, signature.outputs)) if signature else (),
    )


def is_model_ready(version: ModelVersion) -> bool:
    """Whether a version answers, with as many workers as it should have at least."""
    return version.state is VersionState.READY and version.is_healthy


def _read_signature(version: ModelVersion) -> Signature | None:
    try:
        return Signature.from_json((version.package.model_dir / SIGNATURE_PATH).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArchiveError(
            f"{SIGNATURE_PATH} of {version.model} cannot be read: {error}"
        ) from error


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(
        name=spec.name,
        datatype=_DATATYPES.get(spec.dtype, spec.dtype.upper()),
        shape=tuple(-1 if size is None else size for size in spec.shape),
    )
