"""Parts of TorchServe that have no counterpart: importing them works, using them says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from flambeau.errors import HandlerFailed
from flambeau.handler import BaseHandler

if TYPE_CHECKING:
    from flambeau.context import Context

_NO_PIPPY = (
    "PiPPy pipelines are not supported, as the package has ended; use "
    "torch.distributed.pipelining in a handler of your own"
)


def initialize_rpc_workers(*arguments: object) -> NoReturn:
    """Raises HandlerFailed."""
    del arguments
    raise HandlerFailed(_NO_PIPPY)


def get_pipeline_driver(*arguments: object) -> NoReturn:
    """Raises HandlerFailed."""
    del arguments
    raise HandlerFailed(_NO_PIPPY)


class BasePippyHandler(BaseHandler):
    """Raises HandlerFailed when it is to load a model."""

    def initialize(self, context: Context) -> NoReturn:
        del context
        raise HandlerFailed(_NO_PIPPY)


def llm_launcher() -> NoReturn:
    """Ends the process with what to do instead."""
    raise SystemExit(
        "ts.llm_launcher is not supported: make an archive with the handler vllm_handler and a "
        "YAML that names the model, and serve it"
    )
