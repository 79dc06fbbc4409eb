"""Archives of the handlers in `tests/services`, and of tiny models for the built-in handlers."""

from __future__ import annotations

from pathlib import Path

import torch

from flambeau.archive import write_archive
from flambeau.manifest import Manifest
from flambeau.parity import Samples, Tolerance
from flambeau.signature import SAMPLES_PATH, SIGNATURE_PATH, Signature, TensorSpec
from flambeau.testing import make_archive

SERVICES = Path(__file__).parents[1] / "services"

_SUM_MODEL = """
import torch

class Sum(torch.nn.Module):
    def forward(self, numbers):
        return numbers.sum(dim=1)
"""

_BRIGHTNESS_MODEL = """
import torch

class Brightness(torch.nn.Module):
    def forward(self, images):
        bright = images.mean(dim=(1, 2, 3))
        return torch.stack([-bright, bright], dim=1) * 10
"""


def service(
    store: Path,
    handler: str,
    *,
    name: str | None = None,
    version: str = "1.0",
    yaml: str | None = None,
    files: dict[str, bytes] | None = None,
) -> Path:
    """An archive of one of the handlers in `tests/services`; its name is the handler's."""
    source = (SERVICES / f"{handler}.py").read_text(encoding="utf-8")
    return make_archive(
        store,
        name=name or handler,
        handler=source,
        version=version,
        model_yaml=yaml,
        files=files,
    )


def doubling(store: Path, *, factor: float, version: str = "1.0", yaml: str | None = None) -> Path:
    """The doubling handler with samples that were multiplied by `factor`; 2 is right."""
    numbers_B = torch.tensor([1.0, -0.5, 3.0])
    samples = Samples(inputs=(numbers_B,), outputs=(numbers_B * factor,), tolerance=Tolerance())
    files = {SAMPLES_PATH: samples.to_safetensors()}
    return service(store, "doubling", version=version, yaml=yaml, files=files)


def summing(store: Path, *, name: str = "summing") -> Path:
    """A model for `base_handler`: three float32 numbers to their sum, in batches of up to 4."""
    signature = Signature(
        inputs=(TensorSpec(name="numbers", dtype="float32", shape=(None, 3)),),
        outputs=(TensorSpec(name="output_0", dtype="float32", shape=(None,)),),
    )
    files = {
        "model.py": _SUM_MODEL.encode(),
        "model-config.yaml": b"batchSize: 4\n",
        SIGNATURE_PATH: signature.to_json().encode(),
    }
    return _builtin(store, name, handler="base_handler", files=files)


def brightness(store: Path, *, name: str = "brightness") -> Path:
    """A model for `image_classifier`: `dark` or `bright`, in batches of up to 4."""
    yaml = (
        b"batchSize: 4\nhandler: {image: {mode: L, resize: 4, size: 4, mean: [0.5], std: [0.5]}}\n"
    )
    files = {
        "model.py": _BRIGHTNESS_MODEL.encode(),
        "model-config.yaml": yaml,
        "index_to_name.json": b'{"0": "dark", "1": "bright"}',
    }
    return _builtin(store, name, handler="image_classifier", files=files)


def _builtin(store: Path, name: str, *, handler: str, files: dict[str, bytes]) -> Path:
    manifest = Manifest(
        model_name=name, handler=handler, model_file="model.py", config_file="model-config.yaml"
    )
    path = store / f"{name}-1.0.mar"
    write_archive(path, manifest=manifest, files=dict(files))
    return path
