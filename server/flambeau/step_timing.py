"""`timed`: how long a handler's steps take, when the model's YAML asks for it.

handler:
  profile: true
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from flambeau.context import Context

Method = TypeVar("Method", bound=Callable[..., Any])


def timed(method: Method) -> Method:
    """Report each call of a handler's method as `ts_handler_<its name>`, in milliseconds.

    Without `handler.profile: true` in the YAML, or outside of a worker, it is just called.
    """

    @functools.wraps(method)
    def timed_method(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # any method
        context: Context | None = getattr(self, "context", None)
        metrics: Any = context.metrics if context is not None else None
        if context is None or metrics is None or not _is_profiled(context):
            return method(self, *args, **kwargs)
        began_at = time.perf_counter()
        result = method(self, *args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was started belongs to this step
        elapsed_ms = (time.perf_counter() - began_at) * 1000
        metrics.add_time(f"ts_handler_{method.__name__}", elapsed_ms)
        return result

    # a decorator that keeps the signature has no type of its own
    return timed_method  # type: ignore[return-value]


def _is_profiled(context: Context) -> bool:
    settings = context.model_yaml_config.get("handler")
    return isinstance(settings, dict) and bool(settings.get("profile"))
