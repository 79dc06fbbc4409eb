"""The worker process for archives made for TorchServe: `python -m flambeau.torchserve.worker`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flambeau import worker

if TYPE_CHECKING:
    from flambeau.loading import EntryPoint
    from flambeau.messages import LoadModel


def load_entry_point(load: LoadModel) -> EntryPoint:
    """What `loading.load_handler` does; it imports torch, so not before the worker may."""
    from flambeau.torchserve.loading import load_handler  # noqa: PLC0415  # as above

    return load_handler(load)


if __name__ == "__main__":
    sys.exit(worker.main(load_entry_point=load_entry_point))
