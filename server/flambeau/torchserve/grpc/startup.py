"""Makes the gRPC service, and imports gRPC only then."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from flambeau.services import ServerParts, Service

# gRPC's core reads these once: when it is imported, or first used, depending on its version. By
# itself it writes to stderr, where only our JSON lines may be, and minds every fork, where our
# workers execute a program of their own.
_CORE_SETTINGS = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}


def make_grpc(parts: ServerParts) -> Service | None:
    """Both gRPC ports; None when they are switched off."""
    if not parts.config.grpc:
        return None
    with _environment(_CORE_SETTINGS):
        from grpc.aio import init_grpc_aio  # noqa: PLC0415  # see above

        from flambeau.torchserve.grpc.service import GrpcService  # noqa: PLC0415  # see above

        init_grpc_aio()
    return GrpcService(parts)


@contextmanager
def _environment(values: Mapping[str, str]) -> Generator[None]:
    """Add to the environment for a while; what the user has set stays."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
