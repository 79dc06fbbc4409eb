"""How the workers of a server are started: their interpreter, module and environment."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flambeau.child import Launch
from flambeau.config import ServeConfig
from flambeau.messages import IsolationLevel
from flambeau.weights.pickled import forbidden

_log = logging.getLogger(__name__)

# reads TorchServe's archives as well as ours
WORKER_MODULE: Final = "flambeau.torchserve.worker"

_NONE: Final = r"(?!)"  # matches no name
# names of credentials, of the sockets of those who hold them, and of the server's proxies
_PRIVATE: Final = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(API|ACCESS|PRIVATE|SECRET)_?KEY)"
    r"(_|$)|_PROXY$|^SSH_AUTH_SOCK$",
    re.IGNORECASE,
)


def worker_launch(config: ServeConfig, environment: Mapping[str, str]) -> Launch:
    """What every worker is started with, unless its model has an interpreter of its own.

    Args:
        config: The server's settings.
        environment: The server's environment; workers get it without our own settings, without
            what is blacklisted, and without what looks like a credential or a proxy unless
            `pass_env_vars` lets it pass, or isolation is off. Unpickling is forbidden until a
            model's YAML allows it.
    """
    hidden = re.compile(config.blacklist_env_vars or _NONE)
    passed = re.compile(config.pass_env_vars or _NONE)
    guarded = config.isolation is not IsolationLevel.OFF
    kept: dict[str, str] = {}
    kept_back: list[str] = []
    for key, value in environment.items():
        if key.startswith("FLAMBEAU_") or hidden.fullmatch(key):
            continue
        if guarded and _PRIVATE.search(key) and not passed.fullmatch(key):
            kept_back.append(key)
        else:
            kept[key] = value
    if kept_back:
        _log.info("kept from workers (pass_env_vars lets them pass): %s", ", ".join(kept_back))
    if config.use_torchserve_package:
        kept["FLAMBEAU_USE_TORCHSERVE_PACKAGE"] = "true"  # the worker module reads it
    return Launch(command=(Path(sys.executable), WORKER_MODULE), environment=forbidden(kept))
