"""What all servers are asked to do: the same program, the same request bytes, the same answers.

Everything is made by seed, into one directory per work.

Shapes: B = batch, F = features, C = channels, H, W = height and width.
"""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image

import flambeau
from benchmarks.server import FLAMBEAU
from benchmarks.workloads import lenet, photos, text
from flambeau import torchscript
from training.models import ResNet, resnet18

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HANDLERS: Final = Path(__file__).with_name("services")
JSON: Final = "application/json"
RAW: Final = "application/octet-stream"
NUM_LABELS: Final = 1000

_MEAN: Final = np.array((0.485, 0.456, 0.406), dtype=np.float32)  # of ImageNet
_STD: Final = np.array((0.229, 0.224, 0.225), dtype=np.float32)
_WORD: Final = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One work, ready to be served and asked.

    Attributes:
        name: `W1` to `W5`.
        program: TorchScript, as every server loads it; of W5 the weights.
        sample_shape: Of one sample, when bodies are numbers.
        content_type: Of the bodies.
        bodies: Files, sent in turn.
        expected: The answer to each: numbers, or a number for every label.
        tolerance: How far an answer's numbers may be off, relative to the expected.
        flambeau_archive: For Flambeau.
        torchserve_archive: For TorchServe, with a handler as one writes it for TorchServe.
    """

    name: str
    program: Path
    sample_shape: tuple[int, ...] = ()
    content_type: str
    bodies: tuple[Path, ...]
    expected: tuple[Any, ...]
    tolerance: float = 1e-4
    flambeau_archive: Path
    torchserve_archive: Path

    @property
    def is_json(self) -> bool:
        return self.content_type == JSON


@dataclass(frozen=True, kw_only=True)
class Work:
    """A kind of request.

    Attributes:
        name: `W1` to `W5`.
        title: What is served, in a line.
        connections: How many clients ask at a time, one measurement each.
        prepare: Makes it all in a directory.
        is_slow: Whether a batch takes a good part of a second, so that few are answered.
    """

    name: str
    title: str
    connections: tuple[int, ...]
    prepare: Callable[[Path], Prepared]
    is_slow: bool = False


def lenet_raw(directory: Path) -> Prepared:
    """Raw float32 to ten probabilities."""
    samples_BF = lenet.images(16)
    return _numbers("W1", lenet.make_lenet(), samples_BF, directory=directory)


def lenet_json(directory: Path) -> Prepared:
    """The same as JSON."""
    raw = lenet_raw(directory)
    rows = [np.frombuffer(path.read_bytes(), dtype=np.float32) for path in raw.bodies]
    texts = [json.dumps([round(float(x), 4) for x in row]).encode() for row in rows]
    bodies = _written(texts, directory, suffix="json")
    return replace(raw, name="W2", content_type=JSON, bodies=bodies)


def resnet_raw(directory: Path) -> Prepared:
    """Raw float32 images to ten numbers: so few that writing the answer does not count."""
    samples_BCHW = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = _resnet(num_classes=10, samples_BCHW=samples_BCHW)
    return _numbers("W3", model, samples_BCHW, directory=directory)


def resnet_photos(directory: Path) -> Prepared:
    """JPEG files to the five most probable of a thousand labels."""
    paths = tuple(photos.write_photos(directory / "photos", 16))
    samples_BCHW = torch.stack([_as_model_sees(path) for path in paths])
    model = _resnet(num_classes=NUM_LABELS, samples_BCHW=samples_BCHW)
    labels = [f"label {number}" for number in range(NUM_LABELS)]
    archive = _store(directory, "flambeau") / "model.mar"
    flambeau.export(
        model,
        samples_BCHW[:2],
        name="model",
        version="1.0",
        path=archive,
        handler="image_classifier",
        classes=labels,
    )
    program = _program_of(archive, directory)
    names = directory / "index_to_name.json"
    names.write_text(json.dumps(dict(enumerate(labels))), encoding="utf-8")
    with torch.inference_mode():
        rows = torchscript.load(program, device="cpu")(samples_BCHW).softmax(1).tolist()
    return Prepared(
        name="W4",
        program=program,
        content_type="image/jpeg",
        bodies=paths,
        expected=tuple(dict(zip(labels, row, strict=True)) for row in rows),
        flambeau_archive=archive,
        torchserve_archive=_archived(
            _store(directory, "torchserve"),
            handler=HANDLERS / "torchserve_images.py",
            serialized_file=program,
            extra_files=[names],
        ),
    )


def texts(directory: Path) -> Prepared:
    """Texts of 5 to 128 words to the probabilities of four labels."""
    files = text.write_text_model(directory / "text")
    sentences = text.texts(128)
    common: dict[str, Any] = {
        "serialized_file": files.weights,
        "model_file": files.model_file,
        "extra_files": [files.vocabulary, files.labels],
    }
    return Prepared(
        name="W5",
        program=files.weights,
        content_type="text/plain",
        bodies=_written([each.encode() for each in sentences], directory, suffix="txt"),
        expected=tuple(_text_answers(sentences)),
        tolerance=1e-3,  # how a batch is padded shows in the last digits
        flambeau_archive=_archived(
            _store(directory, "flambeau"),
            handler="text_classifier",
            config_file=files.yaml,
            **common,
        ),
        torchserve_archive=_archived(
            _store(directory, "torchserve"), handler=files.handler, **common
        ),
    )


WORKS: Final = (
    Work(
        name="W1",
        title="LeNet, 3 KB of raw float32 to ten probabilities",
        connections=(1, 16, 64),
        prepare=lenet_raw,
    ),
    Work(
        name="W2",
        title="the same LeNet, a JSON list of 784 numbers",
        connections=(16, 64),
        prepare=lenet_json,
    ),
    Work(
        name="W3",
        title="ResNet-18, 600 KB of raw float32",
        connections=(8, 16),
        prepare=resnet_raw,
        is_slow=True,
    ),
    Work(
        name="W4",
        title="photos, JPEG files of 100 KB to ResNet-18's five best labels",
        connections=(16,),
        prepare=resnet_photos,
        is_slow=True,
    ),
    Work(
        name="W5",
        title="texts of 5 to 128 words, a transformer of BERT-tiny's size",
        connections=(16,),
        prepare=texts,
    ),
)


def _numbers(
    name: str, model: torch.nn.Module, samples: torch.Tensor, *, directory: Path
) -> Prepared:
    """A work whose bodies are raw numbers."""
    archive = _store(directory, "flambeau") / "model.mar"
    flambeau.export(model, samples[:2], name="model", version="1.0", path=archive)
    program = _program_of(archive, directory)
    with torch.inference_mode():
        rows = torchscript.load(program, device="cpu")(samples).tolist()
    return Prepared(
        name=name,
        program=program,
        sample_shape=tuple(samples.shape[1:]),
        content_type=RAW,
        bodies=_written([x.numpy().tobytes() for x in samples], directory, suffix="f32"),
        expected=tuple(rows),
        flambeau_archive=archive,
        torchserve_archive=_archived(
            _store(directory, "torchserve"),
            handler=HANDLERS / "torchserve_tensors.py",
            serialized_file=program,
        ),
    )


@torch.inference_mode()
def _resnet(*, num_classes: int, samples_BCHW: torch.Tensor) -> ResNet:
    """ResNet-18 with random weights whose answers to the samples are neither flat nor extreme."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet18(num_classes=num_classes).eval()
    logits_BK = model(samples_BCHW)
    model.fc.weight.mul_(2 / logits_BK.std())
    model.fc.bias.mul_(2 / logits_BK.std())
    return model


def _as_model_sees(path: Path) -> torch.Tensor:
    """A photo as torchvision prepares it for ImageNet's models, (C, H, W)."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = 256 / min(image.size)
    width, height = (int(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    pixels_HWC = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    pixels_HWC = (pixels_HWC - _MEAN) / _STD
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous()


@torch.inference_mode()
def _text_answers(sentences: Sequence[str]) -> list[dict[str, float]]:
    """The model's answers, one sentence at a time, so that padding plays no part."""
    model = text.make_model()
    numbers = {word: number for number, word in enumerate(("<pad>", "<unk>", *text.words()))}
    answers: list[dict[str, float]] = []
    for sentence in sentences:
        row = [numbers.get(word, 1) for word in _WORD.findall(sentence.lower())]
        tokens_BT = torch.tensor([row[: text.MAX_WORDS]])
        logits_BC = model(tokens_BT, torch.ones_like(tokens_BT, dtype=torch.bool))
        answers.append(dict(zip(text.CLASSES, logits_BC.softmax(1)[0].tolist(), strict=True)))
    return answers


def _program_of(archive: Path, directory: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        return Path(opened.extract("model.pt", directory))


def _written(contents: Sequence[bytes], directory: Path, *, suffix: str) -> tuple[Path, ...]:
    paths = tuple(directory / f"body-{place:03}.{suffix}" for place in range(len(contents)))
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def _store(directory: Path, name: str) -> Path:
    store = directory / name
    store.mkdir(parents=True, exist_ok=True)
    return store


def _archived(
    store: Path,
    *,
    handler: str | Path,
    serialized_file: Path,
    model_file: Path | None = None,
    extra_files: Sequence[Path] = (),
    config_file: Path | None = None,
) -> Path:
    """An archive of these files, `model.mar` in the store."""
    options = {
        "--model-name": "model",
        "--version": "1.0",
        "--handler": str(handler),
        "--serialized-file": str(serialized_file),
        "--model-file": model_file and str(model_file),
        "--extra-files": ",".join(map(str, extra_files)),
        "--config-file": config_file and str(config_file),
        "--export-path": str(store),
    }
    words = [word for key, value in options.items() if value for word in (key, value)]
    command = [str(FLAMBEAU), "archive", *words, "--force"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return store / "model.mar"
