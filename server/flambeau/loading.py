"""From the handler an archive names to the function that answers its batches.

A handler is named `module`, `module.py`, `module:function` or `module:Class`. It is looked for in
the archive, then among the built-in handlers, then among installed modules. Whatever its own code
raises while it loads reaches the caller as it is.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from flambeau.context import Context
from flambeau.errors import ArchiveError
from flambeau.handler_metrics import MetricsCache
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.model_yaml import read_model_yaml
from flambeau.module_files import classes_defined_in, load_module
from flambeau.own_paths import builtin_dir
from flambeau.weights import pickled

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from flambeau.codec import Row
    from flambeau.messages import LoadModel

    LoadEntryPoint: TypeAlias = "Callable[[LoadModel], EntryPoint]"

_DEFAULT_FUNCTION: Final = "handle"


class FindModule(Protocol):
    """How a handler's module is found by its name."""

    def __call__(self, name: str, /, *, model_dir: Path) -> ModuleType: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryPoint:
    """A loaded handler.

    Attributes:
        call: Answers a batch: one item per row, in order.
        handler: The object behind `call`, or None when the handler is a function.
        context: What `call` gets beside the rows; the same object every time.
        is_async: Whether `call` is a coroutine function, to be awaited.
    """

    call: Callable[[list[Row], Context], Any]
    handler: object | None
    context: Context
    is_async: bool = False


def load_handler(load: LoadModel, *, find: FindModule | None = None) -> EntryPoint:
    """Import the handler of an unpacked archive and let it load its model.

    The archive comes first on `sys.path`, so that the handler can import its neighbours.

    Args:
        load: What to load.
        find: Finds the handler's module; `find_module` if None.

    Raises:
        ArchiveError: The manifest, the YAML or the handler's name leads nowhere.
        Exception: Whatever the handler's own code raises.
    """
    model_dir = Path(load.model_dir)
    if str(model_dir) not in sys.path:
        sys.path.insert(0, str(model_dir))
    manifest_text = (model_dir / MANIFEST_PATH).read_bytes()
    manifest = Manifest.from_json(manifest_text)
    handler = load.handler or manifest.handler
    if handler is None:
        raise ArchiveError(
            f"{MANIFEST_PATH} names no handler; give one when registering or build it again"
        )
    context = Context(
        load.model_name,
        str(model_dir),
        json.loads(manifest_text),
        load.max_batch_size,
        _gpu_id(load.device),
        load.server_version,
        load.limit_max_image_pixels,
        MetricsCache(
            load.model_metrics, model_name=load.model_name, auto_detect=load.metrics_auto_detect
        ),
        model_yaml_config=read_model_yaml(model_dir, manifest.config_file),
        sequence_headers=load.sequence_headers,
    )
    if pickled.is_allowed(context.model_yaml_config):
        pickled.allow_in_this_process()
    module_name, _, attribute = handler.partition(":")
    module = (find or find_module)(module_name, model_dir=model_dir)
    return _enter(module, attribute or _DEFAULT_FUNCTION, context)


def find_module(name: str, *, model_dir: Path) -> ModuleType:
    """Import a handler's module: from the archive, else a built-in one, else an installed one.

    Raises:
        ArchiveError: There is none of this name.
        Exception: Whatever importing it raises.
    """
    stem = name.removesuffix(".py")
    for directory in (model_dir, builtin_dir()):
        path = directory / f"{stem}.py"
        if path.is_file():
            return load_module(path)
    if stem and "/" not in stem and importlib.util.find_spec(stem.partition(".")[0]) is not None:
        return importlib.import_module(stem)
    builtin = ", ".join(sorted(path.stem for path in builtin_dir().glob("[!_]*.py")))
    raise ArchiveError(
        f"handler {name!r} is neither a file of the archive, nor built in ({builtin}), nor an "
        "installed module; correct the name or add the file to the archive"
    )


def is_builtin(load: LoadModel) -> bool:
    """Whether the handler is a built-in one, named as such and not replaced by the archive's.

    Raises:
        OSError, ArchiveError: There is no archive's manifest.
    """
    model_dir = Path(load.model_dir)
    handler = load.handler or Manifest.from_json((model_dir / MANIFEST_PATH).read_bytes()).handler
    file = f"{(handler or '').partition(':')[0].removesuffix('.py')}.py"
    return (builtin_dir() / file).is_file() and not (model_dir / file).exists()


def load_builtin(name: str) -> ModuleType:
    """Import a built-in handler, e.g. to subclass what it defines: `image_classifier`."""
    return load_module(builtin_dir() / f"{name}.py")


def _gpu_id(device: str) -> int | None:
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" else None


def _enter(module: ModuleType, attribute: str, context: Context) -> EntryPoint:
    """Load the model by the module's function or class, as TorchServe would."""
    target = getattr(module, attribute, None)
    if callable(target) and not inspect.isclass(target):
        _finished(target(None, context))  # TorchServe's way to let a function load its model
        return EntryPoint(
            call=target, handler=None, context=context, is_async=is_coroutine_function(target)
        )
    handler_class = target if inspect.isclass(target) else _handler_class(module, attribute)
    handler: Any = handler_class()
    _finished(handler.initialize(context))
    return EntryPoint(
        call=handler.handle,
        handler=handler,
        context=context,
        is_async=is_coroutine_function(handler.handle),
    )


def is_coroutine_function(call: Callable[..., object]) -> bool:
    """Whether calling it makes a coroutine: an `async def`, or an object with such a `__call__`."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004  # not to find out whether it is callable
    )


def _finished(result: object) -> None:
    """Run a coroutine to its end; anything else is done already."""
    if inspect.iscoroutine(result):
        asyncio.run(result)


def _handler_class(module: ModuleType, attribute: str) -> type:
    """The only class the module defines; of several the only one with a `handle` method.

    A module that defines none may name one of another module in its `__all__`.
    """
    defined = classes_defined_in(module) or _classes_named_in_all(module)
    with_handle = [value for value in defined if callable(getattr(value, "handle", None))]
    for classes in (defined, with_handle):
        if len(classes) == 1:
            return classes[0]
    names = ", ".join(value.__name__ for value in defined) or "no class"
    raise ArchiveError(
        "Expected only one class in custom service code or a function entry point "
        f"{attribute!r}; {module.__name__} defines {names}; name one, as in "
        f"{module.__name__}:ClassName"
    )


def _classes_named_in_all(module: ModuleType) -> list[type]:
    found = {getattr(module, name, None) for name in getattr(module, "__all__", ())}
    return [value for value in found if inspect.isclass(value)]
