"""`torch.compile`, as `pt2` of the model's YAML asks for it.

    pt2: {compile: {enable: true, backend: inductor, mode: reduce-overhead}}

What cannot be compiled is served as it is, after a warning: slower, with the same answers.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import torch

from flambeau import torchscript
from flambeau.errors import ArchiveError

logger = logging.getLogger(__name__)

# TorchServe's list; PyTorch's own list is asked as well
_BACKENDS: Final = (
    *("eager", "aot_eager", "inductor", "nvfuser", "aot_nvfuser", "aot_cudagraphs", "ofi"),
    *("fx2trt", "onnxrt", "ipex", "torchxla_trace_once", "openvino", "tensorrt", "hpu_backend"),
)


def compiled(model: Any, pt2: object) -> Any:  # noqa: ANN401  # any kind of model
    """The model, compiled if the YAML's `pt2` says so and it can be.

    Compilation happens at the first call. A part that fails to compile then runs uncompiled.

    Raises:
        ArchiveError: `pt2` is neither text nor a mapping.
    """
    options = compile_options(pt2)
    if options is None:
        return model
    if not isinstance(model, torch.nn.Module) or torchscript.is_program(model):
        logger.warning(
            "pt2 asks for torch.compile, which takes eager models and torch.export programs; this "
            "%s is served as it is",
            type(model).__name__,
        )
        return model
    try:
        _check_backend(options.get("backend"))
        result = torch.compile(model, **options)
    except Exception as error:  # noqa: BLE001  # backends are plugins and raise anything
        logger.warning("torch.compile with %s failed, the model is eager: %s", options, error)
        return model
    torch._dynamo.config.suppress_errors = True  # noqa: SLF001  # as documented: fall back to eager
    logger.info("the model is compiled at its first call, with %s", options or "defaults")
    return result


def compile_options(pt2: object) -> dict[str, Any] | None:
    """The arguments of `torch.compile`; None when there is nothing to compile.

    Args:
        pt2: `backend`, `{compile: {enable: true, ...}}`, `{export: ...}`, or, deprecated, a mapping
            of arguments.

    Raises:
        ArchiveError: It is none of these.
    """
    match pt2:
        case None:
            return None
        case str(backend):
            return {"backend": backend}
        case {"compile": dict(options)}:
            given = {str(key): value for key, value in options.items()}
            return given if given.pop("enable", False) is True else None
        case {"export": _}:
            return None
        case dict(options) if "compile" not in options:
            return {str(key): value for key, value in options.items()}
        case _:
            raise ArchiveError(
                f"pt2 is {pt2!r}; write {{compile: {{enable: true, backend: inductor}}}}, or a "
                "backend's name"
            )


def _check_backend(backend: object) -> None:
    if backend is None or backend in _BACKENDS:
        return
    known = sorted({*_BACKENDS, *torch._dynamo.list_backends(exclude_tags=())})  # noqa: SLF001
    if backend not in known:
        raise ValueError(f"unknown backend {backend!r}; use one of {', '.join(known)}")
