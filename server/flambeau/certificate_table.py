"""A parity certificate as a table for people."""

from __future__ import annotations

from typing import Any, Final

_TITLES: Final = (
    *("program", "target", "precision", "max error", "mean error", "relative", "top-1"),
    *("batch invariance", "verdict"),
)
_NUM_LEFT: Final = 3  # columns of words; the others are numbers


def certificate_table(document: dict[str, Any]) -> list[str]:
    """What `MAR-INF/parity.json` says, in a few lines.

    `batch invariance` is the largest difference that a sample's company in a batch makes.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: It does not have the form of today.
    """
    programs = document["programs"]
    rows = [_TITLES, *map(_row, programs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    where = f"torch {document['torch_version']} on {document['machine']}, {document['device']}"
    return [
        f"{document['num_samples']} samples, compared with {where}",
        *(_line(row, widths) for row in rows),
        f"at {_sizes(programs[0]['sizes'])}",
    ]


def _row(program: dict[str, Any]) -> tuple[str, ...]:
    top1 = program["top1_agreement"]
    return (
        program["file"],
        program["target"],
        program["precision"],
        f"{program['max_abs_error']:.2g}",
        f"{program['mean_abs_error']:.2g}",
        f"{program['max_rel_error']:.2g}",
        "-" if top1 is None else f"{top1:.1%}",
        f"{program['batch_invariance']['max_abs_error']:.2g}",
        program["verdict"],
    )


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.ljust(width) if column < _NUM_LEFT else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _sizes(entries: list[dict[str, Any]]) -> str:
    """The sizes of each dimension that were run, e.g. `batch 1, 2, 7; length 2, 33, 64`."""
    found: dict[str, set[int]] = {}
    for entry in entries:
        for name, value in entry.items():
            if not (name.endswith("_error") or name == "top1_agreement"):
                found.setdefault(name, set()).add(value)
    return "; ".join(
        f"{name} {', '.join(map(str, sorted(sizes)))}" for name, sizes in found.items()
    )
