"""From a checkpoint to an archive: make the model again, load its weights, export it.

Where the weights come from, `weights_file.py` says. A dict written with `torch.save` may say all
else, too, as ours do; what it does not say, or says otherwise, arguments say:

    model_state_dict   the weights
    model              {"factory": "module:function", "kwargs": {...}}, which makes the module
    samples            inputs (N, ...), N of 1 or more, as the model takes them
    classes            labels in the order of the model's classes, or None or missing
    image              what `flambeau.image.ImageTransform` reads, or None or missing
    tokenizer          what `flambeau.tokenizer.Tokenizer` reads, or None or missing
    feature_names, categories   a table's columns, and known values by column, or None or missing
    epoch, loss, metrics, config, git_commit, data_digest, torch_version   become lineage

The factory's module is the user's own and imported by its name, never known here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau.archive import digest
from flambeau.errors import ExportError
from flambeau.exporting.dims import DynamicDim
from flambeau.exporting.fitting import load_weights
from flambeau.exporting.module import ExportReport, export
from flambeau.exporting.options import Target, chosen
from flambeau.exporting.payload import DEFAULT_HANDLER
from flambeau.exporting.weights_file import read_content, weights_in
from flambeau.image import ImageTransform
from flambeau.table_columns import COLUMNS_FILE, TableColumns
from flambeau.tokenizer import TOKENIZER_FILE, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.parity import Tolerance

_HANDLERS = {
    "tokenizer": "text_classifier",
    "categories": "table_classifier",
    "image": "image_classifier",
}
_LINEAGE = ("model", "epoch", "loss", "metrics", "config", "git_commit", "data_digest")


def export_checkpoint(
    checkpoint: str | Path,
    *,
    name: str,
    version: str,
    path: str | Path,
    factory: str | None = None,
    factory_kwargs: Mapping[str, Any] | None = None,
    samples: torch.Tensor | Sequence[torch.Tensor] | None = None,
    target: str | Sequence[str] = "torchscript",
    precisions: Sequence[str] = ("fp32",),
    calibration: torch.Tensor | Sequence[torch.Tensor] | None = None,
    dims: Sequence[DynamicDim] = (),
    handler: str | Path | None = None,
    method: str | None = None,
    extra_files: Sequence[str | Path] = (),
    model_config: Mapping[str, Any] | None = None,
    tolerance: Tolerance | None = None,
    top1: float | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Export the model in a checkpoint, on the CPU, with the checkpoint's samples and labels.

    `checkpoint` is a file or directory, of the kinds that `weights_file.py` lists. `factory` makes
    its model, as `module:function` or `module:Class`, called with `factory_kwargs`; `samples` are
    inputs, (N, ...). None of these need be given that the checkpoint has.

    The other arguments are those of `export`, but for two things when the checkpoint describes
    images: `handler=None` means `image_classifier`, and how images become tensors is added to
    `model_config` as `handler.image` unless it is stated there. When it has a tokenizer, that goes
    into the archive, and `handler=None` means `text_classifier`; when it has categories of a table,
    `columns.json` goes there, and `handler=None` means `table_classifier`.

    Raises:
        ExportError: The file is no such checkpoint, its factory cannot be imported or called, the
            weights do not fit, or what `export` raises.
        ConfigError: The checkpoint's image settings are out of range, or its tokenizer is none.
    """
    for word in [target] if isinstance(target, str) else target:
        chosen(Target, word)
    checkpoint = Path(checkpoint)
    content = read_content(checkpoint)
    weights = weights_in(content, path=checkpoint)
    if weights.keys() == content.keys():
        content = {}  # weights, whose names mean nothing to us
    spec = _spec(content, factory=factory, kwargs=factory_kwargs, path=checkpoint)
    tokenizer = _tokenizer(content)
    if samples is None:
        samples = content.get("samples")
    if samples is None:
        raise ExportError(
            f"{checkpoint} has no samples, so there is nothing to compare on; give some "
            "(--samples FILE, or --input SHAPE for made-up ones)"
        )
    if tokenizer is not None and not dims:
        dims = [_length_of_texts(content, tokenizer)]
    model = build_model(spec)
    load_weights(model, weights, source=checkpoint)
    image = content.get("image")
    model_config = dict(model_config or {})
    if image is not None:
        model_config["handler"] = _with_image(model_config.get("handler"), image)
    return export(
        model,
        samples,
        name=name,
        version=version,
        path=path,
        target=target,
        precisions=precisions,
        calibration=calibration,
        dims=dims,
        handler=handler or _usual_handler(content),
        method=method,
        classes=content.get("classes"),
        extra_files=extra_files,
        extra_content=_input_files(content, tokenizer),
        model_config=model_config,
        lineage={
            "checkpoint": {"file": checkpoint.name, "sha256": digest_of(checkpoint)},
            "trained_with_torch": content.get("torch_version"),
            **{key: content.get(key) for key in _LINEAGE},
            "model": spec,
        },
        tolerance=tolerance,
        top1=top1,
        description=description,
        overwrite=overwrite,
    )


def build_model(spec: Mapping[str, Any]) -> torch.nn.Module:
    """Call the factory that a checkpoint names.

    Args:
        spec: `factory`, as `module:function`, and `kwargs` for it.

    Raises:
        ExportError: There is no such module or function, its import or call fails, or it makes
            something other than a module; the message tells these apart.
    """
    factory = str(spec.get("factory"))
    module_name, _, function_name = factory.partition(":")
    if not module_name or not function_name:
        raise ExportError(f"the checkpoint's factory is {factory!r}; use 'module:function'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's code runs here and may raise anything
        raise _import_failed(module_name, error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ExportError(
            f"module {module_name!r} ({module.__file__}) has no function {function_name!r}; "
            "the checkpoint was made with other code, so check out its git_commit"
        )
    try:
        model = function(**spec.get("kwargs", {}))
    except Exception as error:
        raise ExportError(
            f"{factory}({spec.get('kwargs', {})}) failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise ExportError(f"{factory} makes {type(model).__name__}, not a torch.nn.Module")
    return model


def _spec(
    content: Mapping[str, Any], *, factory: str | None, kwargs: Mapping[str, Any] | None, path: Path
) -> dict[str, Any]:
    stated = content.get("model")
    is_spec = isinstance(stated, Mapping) and "factory" in stated
    spec = dict(stated) if isinstance(stated, Mapping) and is_spec else {}
    if factory is not None:
        spec = {"factory": factory, "kwargs": {}}
    if not spec:
        raise ExportError(
            f"{path} does not say what makes its model; name a function or class that does "
            "(--factory module:function; a folder of Hugging Face needs none: --hugging-face)"
        )
    return spec if kwargs is None else {**spec, "kwargs": dict(kwargs)}


def _usual_handler(content: Mapping[str, Any]) -> str:
    for key, handler in _HANDLERS.items():
        if content.get(key):
            return handler
    return DEFAULT_HANDLER


def _tokenizer(content: Mapping[str, Any]) -> Tokenizer | None:
    stated = content.get("tokenizer")
    return Tokenizer.from_mapping(stated) if isinstance(stated, Mapping) else None


def _input_files(content: Mapping[str, Any], tokenizer: Tokenizer | None) -> dict[str, bytes]:
    """What handlers read to make inputs of requests as training did."""
    files: dict[str, bytes] = {}
    if tokenizer is not None:
        text = json.dumps(tokenizer.to_mapping(), ensure_ascii=False) + "\n"
        files[TOKENIZER_FILE] = text.encode()
    if categories := content.get("categories"):
        columns = TableColumns(names=content["feature_names"], categories=categories)
        files[COLUMNS_FILE] = columns.to_json()
    return files


def _length_of_texts(content: Mapping[str, Any], tokenizer: Tokenizer) -> DynamicDim:
    """Texts are as long as they are, and programs follow."""
    return DynamicDim(
        name="length", min=1, max=tokenizer.max_tokens, places={content["input"]["name"]: 1}
    )


def digest_of(path: Path) -> str:
    """sha256 of a file; of a directory, of its files' names and digests."""
    if path.is_file():
        return digest(path)
    content = hashlib.sha256()
    for each in sorted(item for item in path.rglob("*") if item.is_file()):
        content.update(f"{each.relative_to(path).as_posix()}\0{digest(each)}\n".encode())
    return content.hexdigest()


def _import_failed(module_name: str, error: Exception) -> ExportError:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module_name}.".startswith(f"{missing}."):
        return ExportError(
            f"there is no module {missing!r}, which makes the checkpoint's model; run the export "
            "in the directory that has it"
        )
    return ExportError(
        f"importing {module_name!r}, which makes the checkpoint's model, failed: "
        f"{type(error).__name__}: {error}"
    )


def _with_image(handler_config: object, image: Mapping[str, Any]) -> dict[str, Any]:
    if handler_config is not None and not isinstance(handler_config, dict):
        raise ExportError(f"model_config key 'handler' is {handler_config!r}; make it a mapping")
    return {"image": ImageTransform.from_mapping(image).to_mapping(), **(handler_config or {})}
