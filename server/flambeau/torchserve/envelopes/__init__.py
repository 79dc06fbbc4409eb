"""Service envelopes: between the formats of other servers and what handlers read and return.

A handler in an envelope gets the samples of a whole batch as one flat list, and each request is
answered with what came of its own samples.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import TYPE_CHECKING, Any, Final

from flambeau.errors import ArchiveError
from flambeau.module_files import classes_defined_in
from flambeau.torchserve.envelopes.base import BaseEnvelope
from flambeau.torchserve.envelopes.body import BodyEnvelope
from flambeau.torchserve.envelopes.instances import JSONEnvelope
from flambeau.torchserve.envelopes.kserve import KServeEnvelope
from flambeau.torchserve.envelopes.kserve_v2 import KServev2Envelope

if TYPE_CHECKING:
    from collections.abc import Callable

ENVELOPES: Final[dict[str, type[BaseEnvelope]]] = {
    "body": BodyEnvelope,
    "json": JSONEnvelope,
    "kserve": KServeEnvelope,
    "kservev2": KServev2Envelope,
}
_PACKAGE: Final = "ts.torch_handler.request_envelope."


def envelope_class(name: str) -> Callable[[Callable[..., Any]], Any]:
    """The envelope of this name: one of `ENVELOPES`, or the only class of a module.

    Args:
        name: With or without `ts.torch_handler.request_envelope.` before it.

    Raises:
        ArchiveError: There is none of this name.
        Exception: Whatever importing the module raises.
    """
    name = name.removeprefix(_PACKAGE)
    if name in ENVELOPES:
        return ENVELOPES[name]
    classes: list[type] = []
    if importlib.util.find_spec(name.partition(".")[0]) is not None:
        module = importlib.import_module(name)
        classes = [each for each in classes_defined_in(module) if not inspect.isabstract(each)]
    if len(classes) != 1:
        raise ArchiveError(
            f"service envelope is {name!r}; use {', '.join(ENVELOPES)}, or a module of the archive "
            "that defines one class"
        )
    return classes[0]
