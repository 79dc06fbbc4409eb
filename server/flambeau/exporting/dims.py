"""Sizes that a program leaves open beside the batch, such as the length of a text.

A dimension has a name, a range, and its place in one or several inputs, where its size is the same.
As text, it is `length=2:128:tokens.1,mask.1`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from flambeau.errors import ExportError

BATCH = "batch"

_TEXT = re.compile(r"([A-Za-z_]\w*)=(\d+):(\d+):(.+)")
_PLACE = re.compile(r"([A-Za-z_]\w*)\.([1-9]\d*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicDim:
    """One open size.

    Attributes:
        name: Of letters, digits and `_`; not `batch`, which always is open.
        min: The least size, 1 or more.
        max: The largest size.
        places: Axes by the name of the input, 1 or more each, as 0 is the batch.
    """

    name: str
    min: int
    max: int
    places: Mapping[str, int]

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name == BATCH:
            raise ExportError(f"a dimension is called {self.name!r}; use another name, as 'length'")
        if not 1 <= self.min < self.max:
            raise ExportError(
                f"dimension {self.name} is {self.min} to {self.max}; use a least size of 1 or more "
                "and a larger one"
            )
        if not self.places or min(self.places.values()) < 1:
            raise ExportError(f"dimension {self.name} has no place; name inputs and axes from 1 on")

    @classmethod
    def from_text(cls, text: str) -> DynamicDim:
        """Read `length=2:128:tokens.1,mask.1`.

        Raises:
            ExportError: It is none.
        """
        match = _TEXT.fullmatch(text)
        places = [_PLACE.fullmatch(each) for each in match[4].split(",")] if match else []
        found = {each[1]: int(each[2]) for each in places if each}
        if match is None or len(found) != len(places):
            raise ExportError(
                f"--dim {text!r} is not NAME=MIN:MAX:INPUT.AXIS; write e.g. "
                "length=2:128:tokens.1,mask.1, where axis 0 is the batch"
            )
        return cls(name=match[1], min=int(match[2]), max=int(match[3]), places=found)

    @property
    def sizes(self) -> tuple[int, ...]:
        """What is compared: both edges and the middle."""
        return tuple(sorted({self.min, (self.min + self.max) // 2, self.max}))


Axes: TypeAlias = Sequence[Mapping[int, DynamicDim]]
"""The open axes of each input, beside the batch."""


def axes_of(dims: Sequence[DynamicDim], input_names: Sequence[str]) -> Axes:
    """Where the dimensions are.

    Raises:
        ExportError: A dimension is of an input that there is not, or two are at one place.
    """
    axes: list[dict[int, DynamicDim]] = [{} for _ in input_names]
    for dim in dims:
        for name, axis in dim.places.items():
            if name not in input_names:
                raise ExportError(
                    f"dimension {dim.name} is of input {name!r}; the model has "
                    f"{', '.join(input_names)}"
                )
            if axis in axes[input_names.index(name)]:
                raise ExportError(f"two dimensions are at {name}.{axis}; name one")
            axes[input_names.index(name)][axis] = dim
    return axes


def check_sizes(inputs: Sequence[torch.Tensor], axes: Axes) -> None:
    """Inputs must have these axes, with one size in range for each dimension.

    Raises:
        ExportError: They have not.
    """
    seen: dict[str, int] = {}
    for tensor, open_axes in zip(inputs, axes, strict=True):
        for axis, dim in open_axes.items():
            size = tensor.shape[axis] if axis < tensor.ndim else 0
            if not dim.min <= size <= dim.max or seen.setdefault(dim.name, size) != size:
                raise ExportError(
                    f"dimension {dim.name} is {dim.min} to {dim.max}, and an input of shape "
                    f"{list(tensor.shape)} has {size or 'no such axis'} at axis {axis}; give "
                    "samples in its range, of equal sizes"
                )


def resized(
    inputs: Sequence[torch.Tensor],
    axes: Axes,
    sizes: Mapping[str, int],
) -> tuple[torch.Tensor, ...]:
    """Inputs of other sizes, made by repeating what there is in turn, or by leaving some of it.

    Args:
        inputs: With the batch first.
        axes: Of each input, those that are open.
        sizes: By dimension; `batch` among them, or not.
    """
    found: list[torch.Tensor] = []
    for tensor, open_axes in zip(inputs, axes, strict=True):
        wanted = {axis: sizes[dim.name] for axis, dim in open_axes.items() if dim.name in sizes}
        if BATCH in sizes:
            wanted[0] = sizes[BATCH]
        resized_one = tensor
        for axis, size in wanted.items():
            places = torch.arange(size, device=tensor.device) % tensor.shape[axis]
            resized_one = resized_one.index_select(axis, places)
        found.append(resized_one)
    return tuple(found)
