"""Starting a server from a Python program, as `ts.launcher` does.

lines = start(model_store="model_store", models="digits.mar", no_config_snapshots=True)
register_model("digits", "digits.mar")
stop()
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, TypeAlias

import httpx

_COMMAND = (sys.executable, "-m", "flambeau.torchserve")
_READY = "Model server started"
_MANAGEMENT_URL = "http://localhost:8081"
_REGISTER_TIMEOUT_S = 300.0
_MAX_LINES = 1000

Lines: TypeAlias = "queue.Queue[str | None]"


def start(  # noqa: PLR0917  # TorchServe's signature
    model_store: str | None = None,
    snapshot_file: str | None = None,
    no_config_snapshots: bool = False,  # noqa: FBT001, FBT002  # as above
    plugin_folder: str | None = None,
    disable_token: bool = True,  # noqa: FBT001, FBT002  # as above
    models: str | Sequence[str] | None = None,
    enable_model_api: bool = True,  # noqa: FBT001, FBT002  # as above
) -> Lines:
    """End the server that runs, start another and wait until it accepts connections.

    Args:
        model_store: The directory of archives.
        snapshot_file: A configuration file, or a snapshot.
        no_config_snapshots: Take no snapshots, and start from none.
        plugin_folder: Java plugins; accepted and ignored.
        disable_token: Answer without asking for tokens.
        models: What to serve from the start.
        enable_model_api: Let models be registered and removed.

    Returns:
        What the server prints from then on, line by line, and None at its end. Only the first 1000
        lines that nobody takes are kept.

    Raises:
        RuntimeError: The server did not start; the text is what it printed.
    """
    stop()
    command = [*_COMMAND, "--start"]
    if model_store:
        command += ["--model-store", model_store]
    if snapshot_file:
        command += ["--ts-config", snapshot_file]
    if no_config_snapshots:
        command.append("--no-config-snapshots")
    if plugin_folder:
        command += ["--plugins-path", plugin_folder]
    if disable_token:
        command.append("--disable-token-auth")
    if enable_model_api:
        command.append("--enable-model-api")
    if models:
        command += ["--models", *([models] if isinstance(models, str) else models)]
    starting = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert starting.stdout is not None
    printed: list[str] = []
    for line in starting.stdout:  # the server keeps the pipe when the command has ended
        print(line.rstrip())
        printed.append(line)
        if _READY in line:
            break
    else:
        starting.stdout.close()
        starting.wait()
        raise RuntimeError(f"the server did not start; it printed:\n{''.join(printed)}")
    starting.wait()
    lines: Lines = queue.Queue(_MAX_LINES)
    threading.Thread(target=_forward, args=(starting.stdout, lines), daemon=True).start()
    return lines


def stop() -> None:
    """End the server that runs, if one does."""
    subprocess.run([*_COMMAND, "--stop", "--foreground"], check=False)


def register_model(model_name: str, url: str) -> httpx.Response:
    """Register an archive with one worker, and wait until it is ready."""
    return register_model_with_params(
        {
            "model_name": model_name,
            "url": url,
            "initial_workers": "1",
            "synchronous": "true",
        }
    )


def register_model_with_params(
    params: Mapping[str, str] | Sequence[tuple[str, str]],
) -> httpx.Response:
    """Register a model with these parameters of the management API, on port 8081."""
    return httpx.post(
        f"{_MANAGEMENT_URL}/models",
        params=httpx.QueryParams(list(params.items() if isinstance(params, Mapping) else params)),
        timeout=_REGISTER_TIMEOUT_S,
        trust_env=False,
    )


def _forward(stream: IO[str], lines: Lines) -> None:
    """Read to the end, so that the server never waits for a reader; print and keep each line."""
    with stream:
        for line in stream:
            print(line.rstrip())
            with contextlib.suppress(queue.Full):
                lines.put_nowait(line)
    with contextlib.suppress(queue.Full):
        lines.put_nowait(None)
