"""From a torch.hub repository to an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flambeau.errors import ExportError
from flambeau.exporting.module import ExportReport, export

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def export_hub(
    source: str,
    *,
    samples: torch.Tensor | Sequence[torch.Tensor] | None,
    factory_kwargs: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401  # those of `export`
) -> ExportReport:
    """Export a model that a repository makes, with the weights it gives it.

    The repository's `hubconf.py` is code that runs here.

    Args:
        source: `DIRECTORY:MODEL`, or `OWNER/NAME:MODEL` or `OWNER/NAME:REF:MODEL`, for which
            torch.hub asks GitHub unless it has it.
        samples: Inputs, (N, ...).
        factory_kwargs: What the model's function is called with, e.g. `pretrained`.
        lineage: As for `export`; the source is added.
        options: As for `export`.

    Raises:
        ExportError: The repository is not there or has no such model, or what `export` raises.
    """
    repository, _, name = source.rpartition(":")
    if not repository or not name:
        raise ExportError(f"--hub {source!r} is not REPOSITORY:MODEL; name a model of it")
    if samples is None:
        raise ExportError("a hub model brings no samples; give some (--samples or --input)")
    is_local = Path(repository).is_dir()
    try:
        model = torch.hub.load(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            repository,
            name,
            source="local" if is_local else "github",
            trust_repo=True,  # pyright: ignore[reportArgumentType]  # torch's; the user named it
            **(factory_kwargs or {}),
        )
    except Exception as error:  # the repository's code runs here and may raise anything
        where = "in the directory" if is_local else "on GitHub as"
        raise ExportError(
            f"torch.hub cannot make {name!r} {where} {repository}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise ExportError(f"{source} makes {type(model).__name__}, not a torch.nn.Module")
    stated = {"hub": source, **(lineage or {})}
    return export(model, samples, lineage=stated, **options)
