"""LeNet-5 in NumPy: forward, backward through a graph of its own, and SGD; without torch.

Each operation returns a `Node` that knows its inputs and how a gradient of its value becomes
gradients of theirs; `backward` walks the graph from the loss, latest node first.

Shapes: B = batch, C = channels, D = channels out, H, W = height and width, K = classes,
R = kernel size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Array = npt.NDArray[np.float64]
Gradients = Sequence[Array]


class Node:
    """A value in the graph.

    Attributes:
        value: What was computed, or a parameter.
        gradient: Of the loss by the value, of the same shape; zeros until `backward`.
    """

    def __init__(
        self,
        value: Array,
        inputs: Sequence[Node] = (),
        to_inputs: Callable[[Array], Gradients] = lambda _: (),
    ) -> None:
        self.value = value
        self.gradient = np.zeros_like(value)
        self.inputs = tuple(inputs)
        self.to_inputs = to_inputs


def backward(loss: Node) -> None:
    """Fill in the gradients of everything that the loss was computed from.

    Args:
        loss: A single number.
    """
    loss.gradient = np.ones_like(loss.value)
    for node in reversed(_in_order(loss)):
        for source, gradient in zip(node.inputs, node.to_inputs(node.gradient), strict=True):
            source.gradient = source.gradient + gradient


def _in_order(last: Node) -> list[Node]:
    """Every node that `last` depends on, inputs before what is computed from them."""
    ordered: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in ordered:
            for source in node.inputs:
                visit(source)
            ordered[node] = None

    visit(last)
    return list(ordered)


def convolve(x: Node, weight: Node, bias: Node) -> Node:
    """(B, C, H, W) by (D, C, R, R) to (B, D, H - R + 1, W - R + 1); stride 1, no padding."""
    size = weight.value.shape[-1]
    windows_BCHWRR = sliding_window_view(x.value, (size, size), axis=(2, 3))
    value = np.einsum("bchwrs,dcrs->bdhw", windows_BCHWRR, weight.value, optimize=True)

    def to_inputs(gradient: Array) -> Gradients:
        of_weight = np.einsum("bchwrs,bdhw->dcrs", windows_BCHWRR, gradient, optimize=True)
        of_x = np.zeros_like(x.value)
        height, width = gradient.shape[2:]
        for row in range(size):  # each weight has moved a shifted copy of x into the value
            for column in range(size):
                by_x = np.einsum("bdhw,dc->bchw", gradient, weight.value[:, :, row, column])
                of_x[:, :, row : row + height, column : column + width] += by_x
        return of_x, of_weight, gradient.sum(axis=(0, 2, 3))

    return Node(value + bias.value[:, None, None], (x, weight, bias), to_inputs)


def relu(x: Node) -> Node:
    is_positive = x.value > 0
    return Node(x.value * is_positive, (x,), lambda gradient: (gradient * is_positive,))


def max_pool(x: Node) -> Node:
    """The largest of each 2 x 2; the gradient goes to the first of equals, row by row."""
    batch, channels, height, width = x.value.shape
    blocks = x.value.reshape(batch, channels, height // 2, 2, width // 2, 2)
    fours = blocks.transpose(0, 1, 2, 4, 3, 5).reshape(batch, channels, height // 2, width // 2, 4)
    winners = np.expand_dims(fours.argmax(axis=-1), -1)

    def to_inputs(gradient: Array) -> Gradients:
        of_fours = np.zeros_like(fours)
        np.put_along_axis(of_fours, winners, gradient[..., None], axis=-1)
        of_blocks = of_fours.reshape(batch, channels, height // 2, width // 2, 2, 2)
        return (of_blocks.transpose(0, 1, 2, 4, 3, 5).reshape(x.value.shape),)

    return Node(np.take_along_axis(fours, winners, axis=-1)[..., 0], (x,), to_inputs)


def flatten(x: Node) -> Node:
    value = x.value.reshape(len(x.value), -1)
    return Node(value, (x,), lambda gradient: (gradient.reshape(x.value.shape),))


def linear(x: Node, weight: Node, bias: Node) -> Node:
    def to_inputs(gradient: Array) -> Gradients:
        return gradient @ weight.value, gradient.T @ x.value, gradient.sum(axis=0)

    return Node(x.value @ weight.value.T + bias.value, (x, weight, bias), to_inputs)


def cross_entropy(logits: Node, labels_B: npt.NDArray[np.int64]) -> Node:
    """The mean over the batch of minus the logarithm of the right class's softmax."""
    shifted_BK = logits.value - logits.value.max(axis=1, keepdims=True)
    log_softmax_BK = shifted_BK - np.log(np.exp(shifted_BK).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels_B))

    def to_inputs(gradient: Array) -> Gradients:
        of_logits_BK = np.exp(log_softmax_BK)
        of_logits_BK[rows, labels_B] -= 1
        return (gradient * of_logits_BK / len(labels_B),)

    return Node(-log_softmax_BK[rows, labels_B].mean(), (logits,), to_inputs)


class NumpyLeNet5:
    """The network, in float64.

    Args:
        parameters: By the names of the paper's layers: `conv1`, `conv2`, `fc1` to `fc3`, each with
            `.weight` and `.bias`.
    """

    def __init__(self, parameters: Mapping[str, npt.NDArray[np.float32]]) -> None:
        self.parameters = {name: Node(p.astype(np.float64)) for name, p in parameters.items()}

    def loss(self, x_BCHW: npt.NDArray[np.float32], labels_B: npt.NDArray[np.int64]) -> Node:
        """The loss of a batch of 32 x 32 images; its graph leads back to the parameters."""
        x = Node(x_BCHW.astype(np.float64))
        for name in ("conv1", "conv2"):
            x = max_pool(relu(convolve(x, *self._layer(name))))
        x = flatten(x)
        for name in ("fc1", "fc2"):
            x = relu(linear(x, *self._layer(name)))
        return cross_entropy(linear(x, *self._layer("fc3")), labels_B)

    def step(self, *, lr: float) -> None:
        """Move every parameter against its gradient, and forget the gradient."""
        for parameter in self.parameters.values():
            parameter.value = parameter.value - lr * parameter.gradient
            parameter.gradient = np.zeros_like(parameter.value)

    def _layer(self, name: str) -> tuple[Node, Node]:
        return self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
