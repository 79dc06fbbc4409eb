"""From an archive made for TorchServe to the function that answers its batches.

What `flambeau.loading` does, and beside it: `ts` can be imported, `ts.torch_handler.NAME` leads to
the built-in handler of this name, an envelope goes around `handle`, and the YAML's `micro_batching`
is heeded.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from flambeau import loading
from flambeau.errors import ArchiveError, HandlerFailed
from flambeau.handler import BaseHandler
from flambeau.loading import EntryPoint, find_module
from flambeau.own_paths import builtin_dir
from flambeau.sample_handler import SampleHandler
from flambeau.torchserve.envelopes import envelope_class
from flambeau.torchserve.micro_batching import MicroBatching
from flambeau.torchserve.names_path import use_names

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path
    from types import ModuleType

    from flambeau.context import Context
    from flambeau.messages import LoadModel

    Call: TypeAlias = Callable[[list[Any], Context], Any]

_BUILTIN_PACKAGE: Final = "ts.torch_handler."
_ERROR_MODULE: Final = "ts.utils.util"


def load_handler(load: LoadModel) -> EntryPoint:
    """Import the handler of an unpacked archive and let it load its model.

    On `sys.path` the archive comes first, TorchServe's names second.

    Raises:
        ArchiveError: The manifest, the YAML, the handler's or the envelope's name leads nowhere.
        Exception: Whatever the handler's own code raises.
    """
    use_names()
    entry_point = loading.load_handler(load, find=_find_module)
    entry_point = _in_micro_batches(entry_point)
    model = entry_point.context.manifest.get("model", {})
    envelope = load.service_envelope or model.get("envelope")
    if envelope:
        inner = entry_point.call
        if isinstance(entry_point.handler, SampleHandler):
            inner = _with_names(inner)
        wrapped = envelope_class(envelope)(inner)
        entry_point = replace(entry_point, call=wrapped.handle)
    if (foreign := _foreign_error()) is not None:
        call = _translating(entry_point.call, foreign, is_async=entry_point.is_async)
        entry_point = replace(entry_point, call=call)
    return entry_point


def _find_module(name: str, *, model_dir: Path) -> ModuleType:
    """As `find_module`, and at last in `ts.torch_handler`.

    Dotted names of handlers that are built into Flambeau mean those.
    """
    short = name.removesuffix(".py").removeprefix(_BUILTIN_PACKAGE)
    is_dotted = name.startswith(_BUILTIN_PACKAGE)
    if (builtin_dir() / f"{short}.py").is_file():
        return find_module(short if is_dotted else name, model_dir=model_dir)
    is_elsewhere = (model_dir / f"{short}.py").is_file() or _is_module(short)
    if (is_dotted or not is_elsewhere) and _is_module(f"{_BUILTIN_PACKAGE}{short}"):
        return importlib.import_module(f"{_BUILTIN_PACKAGE}{short}")
    return find_module(name, model_dir=model_dir)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # of a part of its name, or no name at all
        return False


def _in_micro_batches(entry_point: EntryPoint) -> EntryPoint:
    """Split batches as the YAML asks for, if the handler does not do so by itself.

    Only `BaseHandler.handle` is known to be made of nothing but the steps; what overrides it reads
    the YAML by itself. A `SampleHandler` goes through them with its samples grouped by shape.
    """
    settings = entry_point.context.model_yaml_config.get("micro_batching")
    handler = entry_point.handler
    if settings is None or not isinstance(handler, BaseHandler):
        return entry_point
    if isinstance(handler, SampleHandler):
        return entry_point
    if type(handler).handle is not BaseHandler.handle or "handle" in vars(handler):
        return entry_point
    match settings:
        case {"micro_batch_size": int(size), "parallelism": dict(parallelism)}:
            return replace(entry_point, call=MicroBatching(handler, size, parallelism))
        case {"micro_batch_size": int(size)}:
            return replace(entry_point, call=MicroBatching(handler, size))
        case _:
            raise ArchiveError(
                f"micro_batching is {settings!r}; give `micro_batch_size: 4` and, if need be, "
                "`parallelism: {preprocess: 1, inference: 1, postprocess: 1}`"
            )


def _with_names(call: Call) -> Call:
    """For built-in handlers, which read named inputs: a sample without a name is the `body`."""

    def answer(rows: list[Any], context: Context) -> Any:  # noqa: ANN401  # as `call`
        return call([row if isinstance(row, dict) else {"body": row} for row in rows], context)

    return answer


def _foreign_error() -> type[Exception] | None:
    """TorchServe's own PredictionException, where its package is used instead of our names."""
    found = getattr(sys.modules.get(_ERROR_MODULE), "PredictionException", None)
    return None if found is None or issubclass(found, HandlerFailed) else found


def _translating(call: Call, foreign: type[Exception], *, is_async: bool) -> Call:
    """The same call, raising our error where TorchServe's is raised."""

    @contextmanager
    def translated() -> Generator[None]:
        try:
            yield
        except foreign as error:
            message = str(getattr(error, "message", error))
            raise HandlerFailed(message, status=getattr(error, "error_code", 500)) from error

    def answer(rows: list[Any], context: Context) -> Any:  # noqa: ANN401  # as `call`
        with translated():
            return call(rows, context)

    async def answer_later(rows: list[Any], context: Context) -> Any:  # noqa: ANN401  # as `call`
        with translated():
            return await call(rows, context)

    return answer_later if is_async else answer
