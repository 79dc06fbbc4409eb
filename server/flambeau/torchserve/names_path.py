"""Where TorchServe's import names are: `ts` and `model_archiver`, made of Flambeau.

    use_names()
    from ts.torch_handler.base_handler import BaseHandler

Workers call it before they load a handler; tests of handlers may call it, too, where TorchServe is
not installed.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Final

NAMES_DIR: Final = Path(__file__).with_name("names")
USE_PACKAGE_VARIABLE: Final = "FLAMBEAU_USE_TORCHSERVE_PACKAGE"


def use_names(*, position: int = 0) -> None:
    """Let `import ts` find Flambeau's names, whatever else is called `ts`.

    It is imported at once, so that nothing that comes earlier on `sys.path` later on, such as a
    `ts.py` in an archive, takes its place. Without effect when the environment says
    `FLAMBEAU_USE_TORCHSERVE_PACKAGE=true`, and from the second call on.

    Args:
        position: The place on `sys.path`.
    """
    if os.environ.get(USE_PACKAGE_VARIABLE) == "true" or str(NAMES_DIR) in sys.path:
        return
    sys.path.insert(0, str(NAMES_DIR))
    importlib.import_module("ts")
    sys.path.remove(str(NAMES_DIR))
    sys.path.insert(position, str(NAMES_DIR))
