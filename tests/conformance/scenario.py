"""A scenario: a server's configuration and the requests that it gets, in order.

Both servers, the original and ours, are started in the same way. `recorded` is the file in which
the original's answers are kept.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Protocol

from flambeau.torchserve.exchange import Exchange, Headers, Request
from flambeau.torchserve.launch import Launch, Port
from flambeau.torchserve.replay import replay
from flambeau.torchserve.upstream import RunningServer, running_flambeau, running_upstream
from flambeau.torchserve.upstream_environment import make_environment
from tests.conformance.archives import build

RECORDINGS: Final = Path(__file__).resolve().parent / "recordings"
JSON_TYPE: Final = (("Content-Type", "application/json"),)


class Start(Protocol):
    """Starts a server: `running_upstream` or `running_flambeau`."""

    def __call__(self, launch: Launch, /) -> AbstractContextManager[RunningServer]: ...


@dataclass(frozen=True, kw_only=True)
class Side:
    """Whose server: the original, or ours.

    Attributes:
        start: Starts it.
        command: The words that its `torchserve` command begins with.
    """

    start: Start
    command: Callable[[], list[str]]


THEIRS: Final = Side(
    start=lambda launch: running_upstream(launch, environment=make_environment()),
    command=lambda: make_environment().cli_command(),
)
OURS: Final = Side(
    start=running_flambeau, command=lambda: [sys.executable, "-m", "flambeau.torchserve"]
)


class Recordable(Protocol):
    """What is recorded and compared: a scenario, or the calls of the command."""

    @property
    def name(self) -> str: ...
    @property
    def requests(self) -> tuple[Request, ...]: ...
    @property
    def recorded(self) -> Path: ...
    def run(self, side: Side, directory: Path) -> tuple[list[Exchange], dict[str, str]]: ...


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One configuration of a server, and what it is asked.

    Attributes:
        name: Also the name of its recording.
        archives: What is in its model store.
        requests: What it is sent, in order.
        outside: Archives that are not in the store, served over HTTP at `<<files_url>>` and
            found in the directory `<<files_directory>>`.
        prepare: Puts into the original's environment what it needs beyond TorchServe.
        timeout_s: How long to wait for each answer.

    What is not named here is as in `Launch`.
    """

    name: str
    archives: tuple[str, ...]
    requests: tuple[Request, ...]
    outside: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    token_auth: bool = False
    model_api: bool = True
    combined_port: bool = False
    timeout_s: float = 30.0
    prepare: Callable[[], None] | None = None

    @property
    def recorded(self) -> Path:
        """The file with the original's answers."""
        return RECORDINGS / f"{self.name}.jsonl"

    def run(self, side: Side, directory: Path) -> tuple[list[Exchange], dict[str, str]]:
        """Start a server, send all requests; returns exchanges, and the values of tags.

        Args:
            side: Whose server.
            directory: An empty one, for the store.
        """
        if self.prepare is not None and side is THEIRS:
            self.prepare()
        store, outside = directory / "store", directory / "outside"
        store.mkdir()
        outside.mkdir()
        build(self.archives, store)
        build(self.outside, outside)
        launch = Launch(
            store=store,
            models=self.models,
            properties=self.properties,
            files=self.files,
            environment=self.environment,
            token_auth=self.token_auth,
            model_api=self.model_api,
            combined_port=self.combined_port,
        )
        with _file_server(outside) as files_url, side.start(launch) as server:
            server.wait_models_ready()
            values = {"files_url": files_url, "files_directory": str(outside), "store": str(store)}
            values |= _tags(server)
            requests = list(self.requests)
            exchanges = replay(requests, server.urls, values=values, timeout_s=self.timeout_s)
        return exchanges, values


def _tags(server: RunningServer) -> dict[str, str]:
    urls = {f"{port.value}_url": url for port, url in server.urls.items()}
    keys: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        keys = {f"{name}_key": key for name, key in server.keys().items()}
    return urls | keys | {"directory": str(server.directory)}


@contextmanager
def _file_server(directory: Path) -> Generator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# requests, in few words


def infer(
    name: str,
    target: str,
    body: bytes | str | None = None,
    *,
    headers: Headers = (),
    method: str = "POST",
    together: str | None = None,
    until: int | None = None,
    view: str | None = None,
) -> Request:
    """A request to the inference port."""
    return Request(
        name=name,
        port=Port.INFERENCE,
        method=method,
        target=target,
        headers=headers,
        body=body.encode() if isinstance(body, str) else body,
        together=together,
        until=until,
        view=view,
    )


def ask(name: str, target: str, document: object, *, headers: Headers = ()) -> Request:
    """A prediction whose body is JSON."""
    return infer(name, target, json.dumps(document), headers=JSON_TYPE + headers)


def do(name: str, order: Mapping[str, Any], *, model: str = "behaviours") -> Request:
    """A prediction of the model `behaviours`, told what to do."""
    return ask(name, f"/predictions/{model}", order)


def manage(
    name: str,
    method: str,
    target: str,
    body: bytes | str | None = None,
    *,
    headers: Headers = (),
    until: int | None = None,
    until_text: str | None = None,
    view: str | None = None,
) -> Request:
    """A request to the management port."""
    request = infer(name, target, body, method=method, headers=headers, until=until, view=view)
    return replace(request, port=Port.MANAGEMENT, until_text=until_text)


def scrape(
    name: str, target: str = "/metrics", *, method: str = "GET", view: str | None = "metrics"
) -> Request:
    """A request to the metrics port."""
    return replace(infer(name, target, method=method, view=view), port=Port.METRICS)
