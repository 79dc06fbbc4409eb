"""The client processes that make the load: started, told what to send, and ended."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from flambeau.errors import TuningError
from flambeau.tuning.load_generator import Load, Seen
from flambeau.tuning.window import Window, merged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flambeau.tuning.slo import Slo

_CPUS_PER_CLIENT = 8  # one client makes some 10,000 requests per second


class Clients:
    """Client processes for one server and one set of requests; a context manager."""

    def __init__(
        self, address: tuple[str, int], requests: Sequence[bytes], *, num_clients: int
    ) -> None:
        """Remember what to send and where.

        Args:
            address: Host and port.
            requests: Whole HTTP requests, sent in turn.
            num_clients: Processes, 1 or more.
        """
        self._address = address
        self._requests = requests
        self._num_clients = num_clients
        # while the context is entered
        self._stack = ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._num_loads = 0

    def __enter__(self) -> Clients:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flambeau-")))
            files = [directory / f"request-{place}" for place in range(len(self._requests))]
            for file, request in zip(files, self._requests, strict=True):
                file.write_bytes(request)
            host, port = self._address
            command = [sys.executable, "-m", "flambeau.tuning.load_generator"]
            command += ["--host", host, "--port", str(port), *map(str, files)]
            for _ in range(self._num_clients):
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is for us
                )
                stack.callback(_end, process)
                self._processes.append(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._processes.clear()

    def run_closed(self, *, connections: int, seconds: float) -> Window:
        """Keep so many connections busy: the most that is answered."""
        return self._run(rate=0.0, connections=connections, seconds=seconds, limits=[])

    def run_open(self, *, rate: float, seconds: float, slo: Slo, connections: int) -> Window:
        """Send at a rate; ends early once the objective is missed for certain."""
        num_requests = round(1.5 * rate * seconds / self._num_clients)  # more than will be sent
        limits = [(each.limit_s, each.max_slower(num_requests) + 1) for each in slo.targets]
        return self._run(rate=rate, connections=connections, seconds=seconds, limits=limits)

    def _run(
        self, *, rate: float, connections: int, seconds: float, limits: list[tuple[float, int]]
    ) -> Window:
        num = self._num_clients
        for place, process in enumerate(self._processes):
            self._num_loads += 1
            load = Load(
                rate=rate / num,
                connections=max(1, (connections + place) // num),
                warm_up_s=seconds / 5,
                seconds=seconds,
                grace_s=max(0.1, 2 * max((limit_s for limit_s, _ in limits), default=0.5)),
                limits=limits,
                seed=self._num_loads,
            )
            _stream(process.stdin).write(msgspec.json.encode(load) + b"\n")
            _stream(process.stdin).flush()
        return merged([_answer(process) for process in self._processes])


def num_clients_for(num_cpus: int) -> int:
    """How many client processes suit a machine, most of which is the server's."""
    return max(1, num_cpus // _CPUS_PER_CLIENT)


def _answer(process: subprocess.Popen[bytes]) -> Window:
    line = _stream(process.stdout).readline()
    if not line:
        raise TuningError(
            f"a client process ended with exit code {process.wait()} during a measurement; its "
            "error is above"
        )
    seen = msgspec.json.decode(line, type=Seen)
    return Window(
        seconds=seen.seconds,
        latencies_s=seen.latencies_s,
        num_failed=seen.num_failed,
        first_failure=seen.first_failure,
        is_cut_short=seen.is_cut_short,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it holds nothing that is worth waiting for
    for stream in (process.stdin, process.stdout):
        _stream(stream).close()
    process.wait()


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
