"""What handlers import from `ts.utils.util` and `ts.handler_utils`."""

from __future__ import annotations

import enum
import importlib
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from flambeau import labels, text
from flambeau.errors import HandlerFailed
from flambeau.model_yaml import read_model_yaml
from flambeau.module_files import classes_defined_in

if TYPE_CHECKING:
    from flambeau.context import Context

logger = logging.getLogger(__name__)

CLEANUP_REGEX: Final = re.compile(r"<[^>]*>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
"""A tag or an entity of HTML."""


class PredictionException(HandlerFailed):
    """Ends a batch: every request of it is answered with this status and message.

    Attributes:
        message: What clients read.
        error_code: The HTTP status, 200 to 599; anything else counts as 500.
    """

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(str(message), status=error_code if 200 <= error_code <= 599 else 500)
        self.message = message
        self.error_code = error_code


class PT2Backend(str, enum.Enum):
    """The backends of `torch.compile` that TorchServe knows by name."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether it is one of `PT2Backend`; if not, a warning says which there are."""
    known = [each.value for each in PT2Backend]
    if backend in known:
        return True
    logger.warning("torch.compile backend %r is not one of %s", backend, ", ".join(known))
    return False


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes a module defines, of a parent class only those beneath it."""
    classes = classes_defined_in(module)
    return [each for each in classes if parent_class is None or issubclass(each, parent_class)]


def load_label_mapping(mapping_file_path: str | Path) -> dict[str, str] | None:
    """Read `index_to_name.json`: labels by class index as text; None without such a file.

    Raises:
        ArchiveError: The file does not hold labels.
    """
    mapping = labels.load_label_mapping(Path(mapping_file_path))
    if mapping is None:
        logger.warning("%s is missing; answers name classes by their index", mapping_file_path)
    return mapping


def map_class_to_label(
    probs: Sequence[Sequence[float]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Sequence[Iterable[int]] | None = None,
) -> list[dict[str, float]]:
    """Probabilities to labelled ones.

    Args:
        probs: (B, K): per request, the probabilities of some classes.
        mapping: Labels by class index as text; without one, classes go by their index.
        lbl_classes: (B, K): the classes that `probs` is about; by default, 0 to K - 1.

    Returns:
        Per request, probability by label, in the order given.
    """
    classes: Sequence[Iterable[int]] = (
        [range(len(row)) for row in probs] if lbl_classes is None else lbl_classes
    )
    return [
        {labels.label_of(int(index), mapping): prob for index, prob in zip(*pair, strict=True)}
        for pair in zip(classes, probs, strict=True)
    ]


def get_yaml_config(yaml_file_path: str | Path) -> dict[str, Any]:
    """Read a YAML file; an empty one is an empty dict.

    Raises:
        ArchiveError: There is no such file, or it is not `key: value` lines.
    """
    path = Path(yaml_file_path)
    return read_model_yaml(path.parent, path.name)


def get_tokenizer(
    tokenizer: str | Callable[[str], list[str]] | None,
    language: str = "en",  # noqa: ARG001  # only one is built in
) -> Callable[[str], list[str]]:
    """What splits text into words.

    Args:
        tokenizer: None splits at spaces; `basic_english` makes words lower case and splits
            punctuation off; a function is the tokenizer itself.
        language: Without effect.

    Raises:
        ValueError: There is none of this name.
    """
    if callable(tokenizer):
        return tokenizer
    match tokenizer:
        case None:
            return str.split
        case "basic_english":
            return text.tokenize
        case _:
            raise ValueError(f"there is no tokenizer {tokenizer!r}; use basic_english")


def import_class(class_name: str, module_prefix: str | None = None) -> type:
    """Import a class by its dotted name.

    Args:
        class_name: `module.Class`, or just `Class` with a prefix.
        module_prefix: The module, or the package of the module that is named.

    Raises:
        ImportError: There is no such module, or no such class in it.
    """
    dotted = f"{module_prefix}.{class_name}" if module_prefix else class_name
    module_name, _, name = dotted.rpartition(".")
    found = getattr(importlib.import_module(module_name), name, None) if module_name else None
    if not inspect.isclass(found):
        raise ImportError(f"{dotted!r} is no class; give `module.Class`")
    return found


def send_intermediate_predict_response(
    ret: list[Any],
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Context | None = None,
) -> None:
    """Send one part of every answer of the batch now; what `handle` returns comes after them.

    Args:
        ret: One item per request, of the kinds that `handle` returns.
        req_id_map: The batch's `context.request_ids`.
        message: Not sent.
        code: Not sent: a streamed answer has the status 200.
        context: The context that `handle` got.

    Raises:
        HandlerFailed: There is no batch at hand, or not one sendable item per request.
    """
    del message, code
    if context is None:
        raise HandlerFailed("send_intermediate_predict_response needs the context; hand it on")
    if list(req_id_map.values()) != list(context.request_ids.values()):
        raise HandlerFailed(
            "parts go to all requests of a batch; give context.request_ids and one item for each"
        )
    context.send_intermediate(ret)
