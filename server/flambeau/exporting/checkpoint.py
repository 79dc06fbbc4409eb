"""From a checkpoint file to an archive: make the model again, load its weights, export it.

A checkpoint is one dict, written with `torch.save`, read with `weights_only=True`:

    model_state_dict   the weights
    model              {"factory": "module:function", "kwargs": {...}}, which makes the module
    samples            inputs (N, ...), N of 1 or more, as the model takes them
    classes            labels in the order of the model's classes, or None or missing
    image              what `flambeau.image.ImageTransform` reads, or None or missing
    epoch, loss, metrics, config, git_commit, data_digest, torch_version   become lineage

The factory's module is the user's own and imported by its name, never known here.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau.archive import digest
from flambeau.errors import ExportError
from flambeau.exporting.module import ExportReport, export
from flambeau.exporting.payload import DEFAULT_HANDLER
from flambeau.image import ImageTransform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flambeau.parity import Tolerance

_REQUIRED = ("model_state_dict", "model", "samples")
_LINEAGE = ("model", "epoch", "loss", "metrics", "config", "git_commit", "data_digest")


def export_checkpoint(
    checkpoint: str | Path,
    *,
    name: str,
    version: str,
    path: str | Path,
    target: str = "torchscript",
    handler: str | Path | None = None,
    method: str = "trace",
    extra_files: Sequence[str | Path] = (),
    model_config: Mapping[str, Any] | None = None,
    tolerance: Tolerance | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Export the model in a checkpoint, on the CPU, with the checkpoint's samples and labels.

    The arguments are those of `export`, but for two things when the checkpoint describes images:
    `handler=None` means `image_classifier`, and how images become tensors is added to
    `model_config` as `handler.image` unless it is stated there.

    Raises:
        ExportError: The file is no such checkpoint, its factory cannot be imported or called, the
            weights do not fit, or what `export` raises.
        ConfigError: The checkpoint's image settings are out of range.
    """
    checkpoint = Path(checkpoint)
    content = _load(checkpoint)
    model = build_model(content["model"])
    try:
        model.load_state_dict(content["model_state_dict"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ExportError(
            f"the weights in {checkpoint} do not fit the model that its factory makes: {error}"
        ) from error
    image = content.get("image")
    model_config = dict(model_config or {})
    if image is not None:
        model_config["handler"] = _with_image(model_config.get("handler"), image)
    return export(
        model,
        content["samples"],
        name=name,
        version=version,
        path=path,
        target=target,
        handler=handler or (DEFAULT_HANDLER if image is None else "image_classifier"),
        method=method,
        classes=content.get("classes"),
        extra_files=extra_files,
        model_config=model_config,
        lineage={
            "checkpoint": {"file": checkpoint.name, "sha256": digest(checkpoint)},
            "trained_with_torch": content.get("torch_version"),
            **{key: content.get(key) for key in _LINEAGE},
        },
        tolerance=tolerance,
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


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ExportError(f"checkpoint {path} does not exist; give the file that training wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen kinds
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{path} is no checkpoint that loads safely, or is damaged ({reason}); it must hold "
            "tensors and plain data only"
        ) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} holds {type(content).__name__}, not a checkpoint's dict")
    if missing := [key for key in _REQUIRED if key not in content]:
        raise ExportError(f"{path} has no {', '.join(missing)}; a checkpoint needs them")
    return content


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
