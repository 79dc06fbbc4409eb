"""Flambeau carries a PyTorch model from the training loop into production: train, export, serve.

Importing this package imports neither torch nor fastapi; `flambeau.export` brings torch in when it
is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flambeau.exporting.module import export as export  # re-exported
else:

    def __getattr__(name: str) -> object:  # PEP 562
        if name == "export":
            from flambeau.exporting.module import export  # noqa: PLC0415

            return export
        raise AttributeError(f"module 'flambeau' has no attribute {name!r}")
