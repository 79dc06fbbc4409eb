"""What the harness must know of a server: how to start it on a work, and where to ask.

Each peer is one file with a `PEER`; what is run inside its own environment is in `services/`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.peers.work import Prepared

SERVICES: Final = Path(__file__).with_name("services")
MAX_BATCH_SIZE: Final = 16
NUM_THREADS: Final = 1
"""Of one operation of the model: the other core is the front's and the load generator's."""


class Variant(str, enum.Enum):
    """How a server is set up."""

    TUNED = "tuned"  # batching as its documentation advises for low latency
    DEFAULT_DELAY = "default delay"  # the same with its own default for how long a batch is held
    AUTO = "optimize: auto"  # Flambeau may change the numerics

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Job:
    """One server to start.

    Attributes:
        prepared: The work.
        variant: How it is set up.
        directory: Its own, empty.
        python: The interpreter of the peer's environment.
    """

    prepared: Prepared
    variant: Variant
    directory: Path
    python: Path

    def service_environment(self, *, delay_ms: float | None) -> dict[str, str]:
        """What the files in `services/` read; `delay_ms` of None leaves the peer its default."""
        return {
            "BENCH_MODEL": str(self.prepared.program),
            "BENCH_SHAPE": ",".join(map(str, self.prepared.sample_shape)),
            "BENCH_FORMAT": "json" if self.prepared.is_json else "raw",
            "BENCH_MAX_BATCH_SIZE": str(MAX_BATCH_SIZE),
            "BENCH_DELAY_MS": "" if delay_ms is None else str(delay_ms),
        }


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What starts a server.

    Attributes:
        command: The words.
        url: Where predictions are posted.
        environment: On top of the harness's own.
        management_url: Where workers are added, when it can do that as TorchServe does.
    """

    command: tuple[str, ...]
    url: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    management_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server under comparison.

    Attributes:
        name: As on the command line; also of its environment.
        title: As people write it.
        settings: How it is tuned, in a sentence for the page.
        interpreter: Makes its environment when there is none; returns the Python in it.
        version: Of the server, asked of that interpreter.
        launch: How a job is started; writes what it needs into the job's directory.
        tune: What its documentation advises to run once per model, before it is started.
    """

    name: str
    title: str
    settings: str
    interpreter: Callable[[], Path]
    version: Callable[[Path], str]
    launch: Callable[[Job], Launch]
    tune: Callable[[Prepared, Variant], None] | None = None
