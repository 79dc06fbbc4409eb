"""Weights into a model: names that wrappers have changed, and what to say when they do not fit."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from flambeau.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

# what DDP, torch.compile, Lightning and Fabric put before a model's own names
_PREFIXES = ("module.", "_orig_mod.", "model.", "_forward_module.", "net.")
_MAX_SHOWN = 8


def load_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, source: object
) -> None:
    """Give a model its weights.

    Args:
        model: Gets them.
        weights: By the model's names, or with the prefixes of one or several wrappers before all.
        source: Where they come from, for messages.

    Raises:
        ExportError: Names or shapes differ; the message has them side by side.
    """
    own = model.state_dict()
    fitted = _without_wrappers(weights, own.keys())
    if problems := [*_other_names(fitted.keys(), own.keys()), *_other_shapes(fitted, own)]:
        shown = problems[:_MAX_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise ExportError(
            f"the weights in {source} do not fit {type(model).__name__}:\n  "
            + "\n  ".join(shown)
            + "\nmake the model with the arguments it was trained with"
        )
    model.load_state_dict(fitted)


def _without_wrappers(
    weights: Mapping[str, torch.Tensor], names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """The weights by names without prefixes, for as long as that fits better."""
    wanted = set(names)
    fitted = dict(weights)
    while True:
        prefix = next(
            (each for each in _PREFIXES if fitted and all(n.startswith(each) for n in fitted)), None
        )
        if prefix is None:
            return fitted
        shorter = {name.removeprefix(prefix): tensor for name, tensor in fitted.items()}
        if len(wanted & fitted.keys()) > len(wanted & shorter.keys()):
            return fitted
        fitted = shorter


def _other_names(given: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Names of one side only, each beside the nearest of the other."""
    missing, unexpected = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    lines: list[str] = []
    for name in missing:
        near = difflib.get_close_matches(name, unexpected, n=1, cutoff=0.6)
        lines.append(f"{name} is missing" + (f"; there is {near[0]}" if near else ""))
    for name in unexpected:
        near = difflib.get_close_matches(name, missing, n=1, cutoff=0.6)
        lines.append(f"{name} is not the model's" + (f"; it has {near[0]}" if near else ""))
    return lines


def _other_shapes(
    given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> list[str]:
    return [
        f"{name} is {list(given[name].shape)}; the model's is {list(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
