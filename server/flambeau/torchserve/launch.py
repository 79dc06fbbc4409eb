"""What a server that reads TorchServe's configuration is started with, as data and as files."""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path


class Port(enum.Enum):
    """The HTTP listeners of a server."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    METRICS = "metrics"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a server is started with.

    Attributes:
        store: Its model store.
        models: What it loads at its start, `NAME=ARCHIVE`, `ARCHIVE` or `all`.
        properties: More of its config.properties; `$DIRECTORY` in a value is its own directory.
        files: Files that are put into its directory before it starts, by name.
        environment: More of its environment.
        token_auth: Whether it asks for tokens.
        model_api: Whether models can be registered over HTTP.
        combined_port: Whether inference and management share one port.
        snapshots: Whether it writes its configuration after each change.
        own_group: Whether it leads a process group of its own, which ends with it.
        scratch: Where its own directory is made; None for the system's place.
    """

    store: Path
    models: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    token_auth: bool = False
    model_api: bool = True
    combined_port: bool = False
    snapshots: bool = False
    own_group: bool = True
    scratch: Path | None = None


def properties_text(launch: Launch, *, ports: Sequence[int], directory: Path) -> str:
    """The config.properties of a launch; `ports` are those of HTTP, then those of gRPC."""
    management = ports[0] if launch.combined_port else ports[1]
    properties = {
        "inference_address": f"http://127.0.0.1:{ports[0]}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{ports[2]}",
        "grpc_inference_port": str(ports[3]),
        "grpc_management_port": str(ports[4]),
        "model_store": str(launch.store),
        "default_workers_per_model": "1",
        "disable_system_metrics": "true",
        "enable_model_api": str(launch.model_api).lower(),
        "disable_token_authorization": str(not launch.token_auth).lower(),
        **({"load_models": ",".join(launch.models)} if launch.models else {}),
        **launch.properties,
    }
    return "".join(
        f"{key}={value.replace('$DIRECTORY', str(directory))}\n"
        for key, value in properties.items()
    )


def environment_of(launch: Launch, directory: Path) -> dict[str, str]:
    """A server's environment: ours without settings of servers, with its own directories."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("FLAMBEAU_", "TS_", "PYTHON"))
    }
    own = {
        "TEMP": str(directory / "tmp"),
        "TMPDIR": str(directory / "tmp"),
        "LOG_LOCATION": str(directory / "logs"),
        "METRICS_LOCATION": str(directory / "logs"),
    }
    return inherited | own | dict(launch.environment)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
