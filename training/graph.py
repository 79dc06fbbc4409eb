"""The graph that autograd walks backward from a model's loss, as text or for Graphviz.

    python -m training.graph training/configs/digits_lenet.toml
    python -m training.graph training/configs/digits_lenet.toml --dot | dot -Tsvg > lenet.svg

Steps have numbers, the loss the first; arrows lead where its gradients go, to parameters at last.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from flambeau.errors import FlambeauError
from training.asking import asked_for, config_parser
from training.models import model_spec, rebuild

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from torch.autograd.graph import Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of the backward pass.

    Attributes:
        number: From 1; the loss is first, and every step comes before those it leads to.
        name: The class that computes it, such as `AddmmBackward0`; of a leaf, the parameter's name.
        shape: Of a leaf; None of others.
        leads_to: Numbers of the steps that its gradients go to.
    """

    number: int
    name: str
    shape: tuple[int, ...] | None
    leads_to: tuple[int, ...]


def backward_steps(loss: Tensor, model: nn.Module) -> list[Step]:
    """Every step from the loss to the leaves.

    Raises:
        ValueError: The loss depends on nothing that could be trained.
    """
    if loss.grad_fn is None:
        raise ValueError("the loss has no graph: nothing that it depends on requires a gradient")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = _in_order(loss.grad_fn)
    numbers = {node: number for number, node in enumerate(order, start=1)}
    steps: list[Step] = []
    for node in order:
        leaf: Tensor | None = getattr(node, "variable", None)
        steps.append(
            Step(
                number=numbers[node],
                name=node.name() if leaf is None else names.get(id(leaf), "input"),
                shape=None if leaf is None else tuple(leaf.shape),
                leads_to=tuple(numbers[following] for following in _followers(node)),
            )
        )
    return steps


def text(steps: Iterable[Step]) -> str:
    """A line for each step."""
    return "\n".join(
        f"{step.number:4}  {_label(step)}"
        + (f"  -> {', '.join(map(str, step.leads_to))}" if step.leads_to else "")
        for step in steps
    )


def dot(steps: Iterable[Step]) -> str:
    """The graph in Graphviz's language; leaves are boxes."""
    lines = ["digraph backward {"]
    for step in steps:
        shape = "ellipse" if step.shape is None else "box"
        lines.append(f'  {step.number} [label="{_label(step)}", shape={shape}];')
        lines += [f"  {step.number} -> {number};" for number in step.leads_to]
    return "\n".join([*lines, "}"])


def _label(step: Step) -> str:
    return step.name if step.shape is None else f"{step.name} {list(step.shape)}"


def _followers(node: Node) -> list[Node]:
    return [following for following, _ in node.next_functions if following is not None]


def _in_order(first: Node) -> list[Node]:
    """Each node before those it leads to, however long the chain."""
    finished: dict[Node, None] = {}
    stack = [(first, iter(_followers(first)))]
    entered = {first}
    while stack:
        node, followers = stack[-1]
        following = next(followers, None)
        if following is None:
            finished[node] = None
            stack.pop()
        elif following not in entered:
            entered.add(following)
            stack.append((following, iter(_followers(following))))
    return list(finished)[::-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 2 for settings."""
    parser = config_parser("training.graph", "The autograd graph of a model's loss.")
    parser.add_argument("--dot", action="store_true", help="print Graphviz's language")
    given = parser.parse_intermixed_args(arguments)
    try:
        config, data = asked_for(given)
    except FlambeauError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    model = rebuild(model_spec(config.model, data))
    loss = F.cross_entropy(
        model(torch.zeros(2, *data.input_shape, dtype=data.input_dtype)),
        torch.zeros(2, dtype=torch.int64),
    )
    steps = backward_steps(loss, model)
    print(dot(steps) if given.dot else text(steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
