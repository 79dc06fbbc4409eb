"""What a training step keeps in memory, in four parts: predicted without any memory, and measured.

    python -m training.memory training/configs/digits_lenet.toml batch_size=256

Prediction runs the model on torch's meta device, where tensors have shapes and no content, so a
model may be asked about that would not fit. Shapes: B = batch, K = classes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from flambeau.errors import FlambeauError
from training.asking import asked_for, config_parser
from training.config import OptimizerConfig, TrainConfig
from training.models import model_spec, rebuild
from training.optim import make_optimizer

if TYPE_CHECKING:
    from torch import Tensor, nn

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one training step.

    Attributes:
        parameters: Weights, and buffers such as batch norm's statistics.
        gradients: As many numbers as trainable weights.
        optimizer_state: What the optimizer remembers of earlier steps.
        activations: What the forward pass keeps for the backward pass; grows with the batch.
    """

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int

    @property
    def total(self) -> int:
        return sum(getattr(self, item.name) for item in fields(self))


def step_memory(
    model: nn.Module, x: Tensor, labels_B: Tensor, *, optimizer: OptimizerConfig
) -> Memory:
    """Train one step and see what is kept.

    Args:
        model: On any device, the meta device included; its weights change.
        x: A batch of inputs, there.
        labels_B: Class indices, int64.
        optimizer: What moves the weights.
    """
    mover = make_optimizer(model, optimizer)
    own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers(), x, labels_B)}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = F.cross_entropy(model(x), labels_B)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's
    mover.step()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    state = [item for of_one in mover.state.values() for item in of_one.values()]
    return Memory(
        parameters=_num_bytes([*model.parameters(), *model.buffers()]),
        gradients=_num_bytes(gradients),
        optimizer_state=_num_bytes(item for item in state if isinstance(item, torch.Tensor)),
        activations=sum(kept.values()),
    )


def predicted(
    config: TrainConfig,
    *,
    input_shape: Sequence[int],
    model: nn.Module,
    input_dtype: torch.dtype = torch.float32,
) -> Memory:
    """The same, of a model on the meta device."""
    device = torch.device("meta")
    x = torch.empty(config.batch_size, *input_shape, device=device, dtype=input_dtype)
    labels_B = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
    return step_memory(model.to(device), x, labels_B, optimizer=config.optimizer)


def table(columns: dict[str, Memory]) -> str:
    """A row for each part, in MiB."""
    lines = ["part            " + "".join(f"{name:>12}" for name in columns)]
    for part in (*(item.name for item in fields(Memory)), "total"):
        values = [getattr(memory, part) / _MIB for memory in columns.values()]
        lines.append(f"{part.replace('_', ' '):16}" + "".join(f"{v:>8.2f} MiB" for v in values))
    return "\n".join(lines)


def _storage(tensor: Tensor) -> int:
    """The same for all views of one piece of memory; the meta device has no addresses."""
    address: int = tensor.untyped_storage()._cdata  # noqa: SLF001  # no public name
    return address


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum({_storage(t): t.untyped_storage().nbytes() for t in tensors}.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 2 for settings."""
    parser = config_parser("training.memory", "Memory of a training step, by part.")
    parser.add_argument("--predict-only", action="store_true", help="do not train a step")
    given = parser.parse_intermixed_args(arguments)
    try:
        config, data = asked_for(given)
    except FlambeauError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    spec = model_spec(config.model, data)
    columns = {
        "predicted": predicted(
            config,
            input_shape=data.input_shape,
            input_dtype=data.input_dtype,
            model=rebuild(spec),
        )
    }
    if not given.predict_only:
        use_cuda = config.device != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if use_cuda else "cpu")
        shape = (config.batch_size, *data.input_shape)
        x = torch.zeros(shape, device=device, dtype=data.input_dtype)
        labels_B = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
        columns["measured"] = step_memory(
            rebuild(spec).to(device), x, labels_B, optimizer=config.optimizer
        )
    print(f"{config.model.name}, batches of {config.batch_size}, float32")
    print(table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
