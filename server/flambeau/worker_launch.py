"""How the workers of a server are started: their interpreter, module and environment."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flambeau.child import Launch
from flambeau.config import ServeConfig

# reads TorchServe's archives as well as ours
WORKER_MODULE: Final = "flambeau.torchserve.worker"


def worker_launch(config: ServeConfig, environment: Mapping[str, str]) -> Launch:
    """What every worker is started with, unless its model has an interpreter of its own.

    Args:
        config: The server's settings.
        environment: The server's environment; workers get it without our own settings and what is
            blacklisted.
    """
    hidden = re.compile(config.blacklist_env_vars or r"(?!)")  # by default, no name matches
    kept = {
        key: value
        for key, value in environment.items()
        if not key.startswith("FLAMBEAU_") and not hidden.fullmatch(key)
    }
    if config.use_torchserve_package:
        kept["FLAMBEAU_USE_TORCHSERVE_PACKAGE"] = "true"  # the worker module reads it
    return Launch(command=(Path(sys.executable), WORKER_MODULE), environment=kept)
