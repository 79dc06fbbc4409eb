"""How a model is spread over processes: whole on each of them, or a shard on each.

A checkpoint is whole whatever the strategy, and one file: another strategy can go on from it, with
another number of processes, and `flambeau export` takes it as it is.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning_fabric.strategies.deepspeed import DeepSpeedStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from flambeau.errors import ConfigError
from training.optim import make_optimizer
from training.zero import gathered, zero_strategy

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.strategy import Strategy
    from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
    from torch.optim import Optimizer
    from torch.optim.swa_utils import AveragedModel

    from training.config import OptimizerConfig, TrainConfig

T = TypeVar("T")
_MIN_PARAMETERS = 1_000_000  # of a part that is gathered by itself when its turn comes


def make_strategy(config: TrainConfig, *, accelerator: str, num_processes: int) -> Strategy | str:
    """What Fabric takes for the configured strategy.

    Raises:
        ConfigError: It does not fit the machine, the number of processes, or other settings.
    """
    if config.strategy == "deepspeed":
        return zero_strategy(config, accelerator=accelerator)
    if config.strategy == "single" and num_processes > 1:
        raise ConfigError(
            f"strategy is 'single', and {num_processes} processes were started; use auto, ddp or "
            "fsdp, or start one"
        )
    if config.strategy == "fsdp":
        if config.precision == "16-mixed":
            raise ConfigError(
                "precision is '16-mixed', whose scaled losses strategy=fsdp cannot follow; use "
                "bf16-mixed"
            )
        return ModelParallelStrategy(shard)
    return "ddp" if config.strategy == "ddp" else "auto"


def set_up(
    model: nn.Module,
    averaged: AveragedModel | None,
    config: OptimizerConfig,
    *,
    fabric: Fabric,
) -> tuple[_FabricModule, _FabricOptimizer, Optimizer]:
    """Put a model where it trains, and its average, too.

    Returns:
        The model and the optimizer for their peers, and the optimizer itself.
    """
    if isinstance(fabric.strategy, DeepSpeedStrategy):  # which averages nothing
        optimizer = make_optimizer(model, config)
        return (*fabric.setup(model, optimizer), optimizer)
    placed_model = fabric.setup_module(model)
    if averaged is not None and isinstance(fabric.strategy, ModelParallelStrategy):
        shard(averaged.module, fabric.strategy.device_mesh)
    elif averaged is not None:
        averaged.to(fabric.device)
    optimizer = make_optimizer(model, config)  # after sharding, which makes new parameters
    placed_optimizer = fabric.setup_optimizers(optimizer)
    assert not isinstance(placed_optimizer, tuple)  # of one, there is one
    return placed_model, placed_optimizer, optimizer


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Leave each rank a share of every parameter, in place; a part is whole while it computes.

    Args:
        model: Equal on all ranks.
        mesh: All ranks, in any shape.
    """
    ranks = init_device_mesh(mesh.device_type, (mesh.size(),))
    for part in parts(model):
        sharded: FSDPModule = fully_shard(part, mesh=ranks, reshard_after_forward=True)
        if mesh.device_type == "cpu":
            sharded.set_force_sum_reduction_for_comms(enable=True)  # gloo has no mean
    return model


def parts(model: nn.Module) -> list[nn.Module]:
    """What is gathered at once: modules with a million parameters of their own, inner ones first.

    The model comes last, with what is left. It is the only one if two modules share a parameter.
    """
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> int:
        """Returns how many parameters are left to the module around it."""
        num_left = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        num_left += sum(visit(child) for child in module.children())
        is_called = not isinstance(module, nn.ModuleList | nn.ModuleDict)
        if module is model or (is_called and num_left >= _MIN_PARAMETERS):
            found.append(module)
            return 0
        return num_left

    visit(model)
    num_names = sum(1 for _ in model.named_parameters(remove_duplicate=False))
    return found if num_names == sum(1 for _ in model.parameters()) else [model]


def whole(state: T, *, keep: bool) -> T:
    """A copy on the CPU, shards put together; training on does not change it. Call it on all ranks.

    Args:
        state: Tensors in any nesting of dicts and lists.
        keep: Whether this rank wants it; empty tensors are returned otherwise.
    """

    def copied(tensor: Tensor) -> Tensor:
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return full.detach().to("cpu", copy=True) if keep else torch.empty(0)

    copy: T = apply_to_collection(state, Tensor, copied)
    return copy


def model_state(model: nn.Module, *, fabric: Fabric) -> dict[str, Tensor]:
    """The whole weights, on rank 0. Call it on all ranks."""
    is_zero = isinstance(fabric.strategy, DeepSpeedStrategy)
    with gathered(model) if is_zero else nullcontext():
        return whole(model.state_dict(), keep=fabric.is_global_zero)


def optimizer_state(optimizer: Optimizer, *, fabric: Fabric) -> dict[str, Any]:
    """The whole of it, on rank 0; DeepSpeed keeps its own. Call it on all ranks."""
    if isinstance(fabric.strategy, DeepSpeedStrategy):
        return {}
    return whole(optimizer.state_dict(), keep=fabric.is_global_zero)


def restore_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give every rank its share of whole weights."""
    own = model.state_dict()
    model.load_state_dict({name: _like(value, own.get(name)) for name, value in state.items()})


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give every rank its share of a whole optimizer's state."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    shares = {
        place: {name: _like(value, parameters[place]) for name, value in values.items()}
        for place, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": shares})


def _like(value: Any, reference: Tensor | None) -> Any:  # noqa: ANN401  # what optimizers keep
    """The value, sharded as the reference is if it has its shape."""
    if not (isinstance(reference, DTensor) and isinstance(value, Tensor)):
        return value
    if value.shape != reference.shape:  # a counter of steps
        return value
    return distribute_tensor(
        value.to(reference.device),
        reference.device_mesh,
        reference.placements,
        src_data_rank=None,  # every rank has read the file
    )
