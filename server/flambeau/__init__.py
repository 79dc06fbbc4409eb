"""Flambeau carries a PyTorch model from the training loop into production: train, export, serve.

Importing this package imports neither torch nor fastapi; `flambeau.export` brings torch in when it
is called.
"""

from __future__ import annotations

__version__ = "0.1.0"
