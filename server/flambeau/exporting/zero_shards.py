"""Puts together what DeepSpeed's ZeRO shares out: a directory that `save_checkpoint` wrote.

    latest                                           which directory beside it is meant
    global_step3/mp_rank_00_model_states.pt          names, shapes, buffers; stage 3: of each rank
    global_step3/zero_pp_rank_R_mp_rank_00_optim_states.pt     rank R's share, in float32

Stages 1 and 2 lay the weights of an optimizer's group end to end, and cut that into one piece for
each rank. Stage 3 cuts every weight: rank R's share is the R-th piece of each, end to end. Pieces
are padded. The format is that of DeepSpeed 0.19, which tests read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch

from flambeau.errors import ExportError
from flambeau.exporting import plain_pickle

if TYPE_CHECKING:
    from pathlib import Path

Weights: TypeAlias = dict[str, torch.Tensor]

_LATEST: Final = "latest"
_MODEL: Final = "*_model_states.pt"
_SHARES: Final = "*_optim_states.pt"
_COPY_AGAIN: Final = "copy the directory again, with all of its files"
_RANK: Final = re.compile(r"zero_pp_rank_(\d+)_mp_rank_00_")


class _Unread:
    """Stands for an object of DeepSpeed's that no weights are in."""


# What DeepSpeed pickles beside tensors, and what is made of it here.
_CLASSES: Final = (
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Unread, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Unread, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Unread, "deepspeed.utils.tensor_fragment.fragment_address"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """What one rank holds of the weights that are trained.

    Attributes:
        stage: Of ZeRO, 1 to 3.
        num_ranks: Over which the weights are shared out.
        flat: For each group of the optimizer, its piece, float32 of one dimension.
        paddings: For each group, the numbers that follow each weight in it; empty for none.
    """

    stage: int
    num_ranks: int
    flat: Sequence[torch.Tensor]
    paddings: Sequence[Sequence[int]]


def is_zero(path: Path) -> bool:
    """Whether a directory is one that DeepSpeed wrote, or the one in it with the files."""
    return (path / _LATEST).is_file() or any(path.glob(_MODEL))


def read(path: Path) -> Weights:
    """All weights and buffers, whole, on the CPU; what was trained is float32.

    Raises:
        ExportError: A file is missing or damaged, holds more than tensors and plain data, or the
            model itself was cut, by tensor or expert parallelism.
    """
    directory = _directory(path)
    if others := sorted(
        file.name
        for file in directory.glob(_MODEL)
        if "expert" in file.name or "mp_rank_00" not in file.name
    ):
        raise ExportError(
            f"{directory} has {', '.join(others[:4])}: the model itself was cut into pieces; put "
            "them together with the program that trained it, and give the file it writes"
        )
    models = [plain_pickle.read(file, classes=_CLASSES) for file in _by_rank(directory, _MODEL)]
    shares = [_share(file) for file in _by_rank(directory, _SHARES)]
    if not models:
        raise ExportError(f"{directory} has no {_MODEL}; {_COPY_AGAIN}")
    try:
        return _put_together(models, shares, directory)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise ExportError(
            f"what {directory} holds is not as DeepSpeed lays it out ({error!r}); run the "
            "zero_to_fp32.py that DeepSpeed left beside it, and give the file it writes"
        ) from error


def _directory(path: Path) -> Path:
    """The one with the files.

    Raises:
        ExportError: `latest` names none.
    """
    if not (path / _LATEST).is_file():
        return path
    name = (path / _LATEST).read_text(encoding="utf-8", errors="replace").strip()
    if not name or "/" in name or name.startswith(".") or not (path / name).is_dir():
        raise ExportError(
            f"{path / _LATEST} names {name!r}, which is no directory beside it; give the "
            "directory with the *_model_states.pt itself"
        )
    return path / name


def _by_rank(directory: Path, pattern: str) -> list[Path]:
    def rank(file: Path) -> int:
        found = _RANK.search(file.name)
        return int(found[1]) if found else 0

    return sorted(directory.glob(pattern), key=rank)


def _share(file: Path) -> _Share:
    content = plain_pickle.read(file, classes=_CLASSES)
    try:
        state = content["optimizer_state_dict"]
        stage = int(state["zero_stage"])
        counts = state["partition_count"]
        return _Share(
            stage=stage,
            num_ranks=counts if isinstance(counts, int) else max(counts),
            flat=state["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"],
            paddings=state.get("param_alignment_paddings") or [],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{file} is no share of ZeRO's: {error!r}") from error


def _put_together(
    models: Sequence[Mapping[str, Any]], shares: Sequence[_Share], directory: Path
) -> Weights:
    model = models[0]
    if model["param_shapes"] is None:  # stage 0 shares nothing out
        return dict(model["module"])
    if not shares:
        raise ExportError(f"{directory} has no {_SHARES}; {_COPY_AGAIN}")
    first = shares[0]
    is_model_cut = first.stage == 3
    counts = {_SHARES: len(shares)} | ({_MODEL: len(models)} if is_model_cut else {})
    for pattern, number in counts.items():
        if number != first.num_ranks:
            raise ExportError(
                f"{directory} has {number} {pattern}, and {first.num_ranks} ranks wrote it; "
                f"{_COPY_AGAIN}"
            )
    if is_model_cut:
        weights = _frozen(models) | _from_pieces(model, shares)
    else:
        weights = dict(model["module"]) | _end_to_end(model, shares)
    return weights | {
        name: weights[other] for name, other in model["shared_params"].items() if other in weights
    }


def _end_to_end(model: Mapping[str, Any], shares: Sequence[_Share]) -> Weights:
    """What stages 1 and 2 train."""
    weights: Weights = {}
    for group, shapes in enumerate(model["param_shapes"]):
        whole = torch.cat([share.flat[group] for share in shares])
        paddings = shares[0].paddings[group] if shares[0].paddings else [0] * len(shapes)
        start = 0
        for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
            weights[name] = whole[start : start + shape.numel()].view(shape)
            start += shape.numel() + padding
    return weights


def _from_pieces(model: Mapping[str, Any], shares: Sequence[_Share]) -> Weights:
    """What stage 3 trains."""
    flat = [torch.cat(list(share.flat)) for share in shares]
    weights: Weights = {}
    start = 0
    for shapes in model["param_shapes"]:
        for name, shape in shapes.items():
            size = math.ceil(shape.numel() / len(flat))
            weights[name] = _joined([each[start : start + size] for each in flat], shape)
            start += size
    return weights


def _frozen(models: Sequence[Mapping[str, Any]]) -> Weights:
    """What stage 3 does not train: buffers, which every rank has, and weights, cut as well."""
    model = models[0]
    buffers: Weights = {name: model["module"][name] for name in model["buffer_names"]}
    shapes: Mapping[str, torch.Size] = model["frozen_param_shapes"] or {}
    return buffers | {
        name: _joined([each["frozen_param_fragments"][name] for each in models], shape)
        for name, shape in shapes.items()
    }


def _joined(pieces: Sequence[torch.Tensor], shape: torch.Size) -> torch.Tensor:
    return torch.cat(list(pieces))[: shape.numel()].view(shape)
