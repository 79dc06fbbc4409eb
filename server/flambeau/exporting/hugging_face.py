"""From a folder of Hugging Face to an archive.

`config.json` names the model's class, which `transformers` has, and `model.safetensors` holds its
weights. No code in the folder runs, nothing is fetched, and the archive needs no transformers.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import safetensors
import safetensors.torch
import torch

from flambeau.errors import ExportError
from flambeau.exporting.checkpoint import digest_of
from flambeau.exporting.module import ExportReport, export

if TYPE_CHECKING:
    from types import ModuleType

_NUM_MADE_UP: Final = 8
_MADE_UP_LENGTH: Final = 16
_MAX_SHOWN: Final = 8
_MASK: Final = "attention_mask"


def export_hugging_face(
    folder: str | Path,
    *,
    samples: Mapping[str, torch.Tensor] | Sequence[torch.Tensor] | None = None,
    calibration: Mapping[str, torch.Tensor] | Sequence[torch.Tensor] | None = None,
    lineage: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401  # those of `export`
) -> ExportReport:
    """Export the model that a folder holds, in float32.

    Args:
        folder: What `save_pretrained` wrote, or a downloaded copy of a model's page.
        samples: Inputs, (N, ...), by the names of the model's arguments, or in the order of
            `input_ids`, `attention_mask`. None makes up token numbers or pixels.
        calibration: As for `export`, given as samples are.
        lineage: As for `export`; the folder is added.
        options: As for `export`.

    Raises:
        ExportError: transformers is not installed, or knows no such model; the folder is none of
            Hugging Face; inputs have to be given; or what `export` raises.
    """
    folder = Path(folder)
    architecture, labels = _described(folder)
    transformers = _transformers()
    model = _load(folder, architecture, transformers)
    ordered = _in_order(model, _made_up(model) if samples is None else samples)
    stated = {
        "hugging_face": {"folder": folder.name, "sha256": digest_of(folder)},
        "architecture": architecture,
        "transformers_version": str(transformers.__version__),
        **(lineage or {}),
    }
    return export(
        with_tensors(model, tuple(ordered)),
        tuple(ordered.values()),
        calibration=None if calibration is None else tuple(_in_order(model, calibration).values()),
        lineage=stated,
        classes=labels,
        **options,
    )


def read_named_inputs(path: Path, *, flag: str) -> dict[str, torch.Tensor]:
    """Inputs by the names of a model's arguments.

    Raises:
        ExportError: The file is not safetensors; the message names the flag that it was given by.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ExportError(
            f"{flag} {path} cannot be read ({error}); give a .safetensors file, its tensors "
            "named as the model's arguments"
        ) from error


def with_tensors(model: torch.nn.Module, names: Sequence[str]) -> torch.nn.Module:
    """A model that takes these arguments in order, and gives a dict of its outputs' tensors."""

    def forward(self: _WithTensors, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.answer(dict(zip(names, inputs, strict=True)))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    vars(forward)["__signature__"] = inspect.Signature(parameters)  # the archive's names, too
    made: torch.nn.Module = type("HuggingFaceModel", (_WithTensors,), {"forward": forward})(model)
    return made


class _WithTensors(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def answer(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs by name; what is no tensor, as a cache of keys and values, is left out."""
        outputs: Mapping[str, object] = self.model(**inputs, return_dict=True)
        return {name: each for name, each in outputs.items() if isinstance(each, torch.Tensor)}


def _described(folder: Path) -> tuple[str, list[str] | None]:
    """What `config.json` says: the model's class, and its labels if somebody has named them.

    Raises:
        ExportError: It says nothing of the kind.
    """
    path = folder / "config.json"
    try:
        document = json.loads(path.read_bytes())
        (architecture,) = document["architectures"]
        labels = {int(index): str(label) for index, label in document.get("id2label", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{path} does not name a model's class ({type(error).__name__}: {error}); give a "
            "folder that save_pretrained wrote"
        ) from error
    in_order = [labels[index] for index in sorted(labels)]
    is_named = in_order != [f"LABEL_{index}" for index in range(len(in_order))]
    return str(architecture), in_order if in_order and is_named else None


def _transformers() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ExportError(
            "the models of Hugging Face are made by transformers, which is not installed; "
            "pip install transformers"
        ) from error


def _load(folder: Path, architecture: str, transformers: ModuleType) -> torch.nn.Module:
    known = getattr(transformers, architecture, None)
    if not (inspect.isclass(known) and issubclass(known, torch.nn.Module)):
        raise ExportError(
            f"transformers {transformers.__version__} has no model {architecture!r}, which "
            f"{folder / 'config.json'} names; install the version that has it. Code in the folder "
            "is not run"
        )
    try:
        made: Any = known
        model, found = made.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:  # of many kinds
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"transformers cannot make {architecture} of {folder}: {type(error).__name__}: {reason}"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ExportError(
            f"{folder} lacks {', '.join(missing[:_MAX_SHOWN])} of {architecture}, which would be "
            "random then; train it, or save it again"
        )
    model.config.use_cache = False
    loaded: torch.nn.Module = model.float().eval()
    return loaded


def _arguments(model: torch.nn.Module) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


def _by_order(model: torch.nn.Module, samples: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names for inputs that have none: the main one's, then that of the mask."""
    names = _usual_inputs(model)
    if len(samples) > len(names):
        raise ExportError(
            f"{len(samples)} inputs have no names, of which {', '.join(names)} follow from the "
            "model; name them in a .safetensors file (--samples)"
        )
    return dict(zip(names, samples, strict=False))


def _in_order(
    model: torch.nn.Module, given: Mapping[str, torch.Tensor] | Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Inputs by name, in the order of the model's arguments."""
    named = given if isinstance(given, Mapping) else _by_order(model, given)
    arguments = _arguments(model)
    if unknown := sorted(named.keys() - set(arguments)):
        raise ExportError(
            f"the samples name {', '.join(unknown)}; the model takes {', '.join(arguments)}"
        )
    return {name: named[name] for name in arguments if name in named}


def _usual_inputs(model: torch.nn.Module) -> list[str]:
    main = str(getattr(model, "main_input_name", "input_ids"))
    has_mask = main == "input_ids" and _MASK in _arguments(model)
    return [main, _MASK] if has_mask else [main]


def _made_up(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Texts of different lengths, filled up behind their ends, or noise as pixels.

    Raises:
        ExportError: The model takes something else.
    """
    names = _usual_inputs(model)
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    num_tokens = getattr(config, "vocab_size", None)
    if names[0] == "input_ids" and isinstance(num_tokens, int):
        length = min(_MADE_UP_LENGTH, getattr(config, "max_position_embeddings", _MADE_UP_LENGTH))
        ids = torch.randint(num_tokens, (_NUM_MADE_UP, length), generator=generator)
        ends = length - torch.arange(_NUM_MADE_UP).clamp(max=length - 1).unsqueeze(1)
        mask = (torch.arange(length) < ends).long()
        ids = torch.where(mask.bool(), ids, getattr(config, "pad_token_id", None) or 0)
        return dict(zip(names, (ids, mask), strict=False))
    size = getattr(config, "image_size", None)
    if names[0] == "pixel_values" and isinstance(size, int):
        shape = (_NUM_MADE_UP, config.num_channels, size, size)
        return {names[0]: torch.randn(shape, generator=generator)}
    raise ExportError(
        f"what {names[0]} looks like does not follow from the model's config; give samples "
        "(--samples FILE.safetensors, or --input SHAPE)"
    )
