"""`python -m flambeau.torchserve`: start and stop a server with TorchServe's command line.

Without `--foreground` the server stays behind in a process of its own that keeps this one's stdout
and stderr, so that scripts may wait for its `Model server started.`. Messages and exit codes are
TorchServe's; they are printed on stdout, as it does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flambeau.errors import ConfigError, FlambeauError
from flambeau.torchserve import TORCHSERVE_VERSION
from flambeau.torchserve.command_line import Action, CommandLine
from flambeau.torchserve.pid_file import PidFile, is_server
from flambeau.torchserve.places import Places
from flambeau.torchserve.properties import read_properties
from flambeau.torchserve.settings import Settings, settings_of
from flambeau.torchserve.snapshot_files import check_archives

_STOP_TIMEOUT_S = 60.0
_KILL_TIMEOUT_S = 10.0
_KEY_FILE = Path("key_file.json")


class _RefusedError(ConfigError):
    """A start that TorchServe refuses with a text of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command_line = CommandLine.parse(arguments)
    try:
        match command_line.action:
            case Action.VERSION:
                _say(f"TorchServe Version is {TORCHSERVE_VERSION}")
                return 0
            case Action.STOP:
                return _stop(PidFile.default())
            case Action.START:
                return _start(command_line, arguments, PidFile.default())
    except _RefusedError as error:
        _say(str(error))
    except FlambeauError as error:
        _say(f"Invalid configuration: {error}")
    return 1


def _start(command_line: CommandLine, arguments: Sequence[str], pid_file: PidFile) -> int:
    if pid_file.running() is not None:
        raise _RefusedError(
            "TorchServe is already running, please use torchserve --stop to stop TorchServe."
        )
    places = Places.of(os.environ)
    settings = _checked(command_line, places)
    if command_line.foreground:
        return _serve(settings, places, pid_file, snapshots=command_line.snapshots)
    server = subprocess.Popen(
        [sys.executable, "-m", "flambeau.torchserve", *arguments, "--foreground"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # what ends this terminal does not end it
    )
    try:
        pid_file.write(server.pid)
    except ConfigError:
        server.terminate()
        raise
    server.returncode = 0  # it outlives this process, which is no mistake
    return 0


def _serve(settings: Settings, places: Places, pid_file: PidFile, *, snapshots: bool) -> int:
    from flambeau.torchserve.server import run  # noqa: PLC0415  # brings the whole server in

    pid_file.write(os.getpid())
    try:
        return run(settings, places, snapshots=snapshots)
    finally:
        pid_file.remove(os.getpid())


def _checked(command_line: CommandLine, places: Places) -> Settings:
    """The settings, once everything they and the flags name is there.

    Raises:
        ConfigError: Something is not; TorchServe's text where it has one.
    """
    temporary = os.environ.get("TEMP")
    if temporary and not Path(temporary).is_dir():
        raise _RefusedError(
            f"Invalid temp directory: {temporary}, please check TEMP environment variable."
        )
    if command_line.log_config is not None and not command_line.log_config.is_file():
        raise _RefusedError(f"--log-config file not found: {command_line.log_config.resolve()}")
    config = os.environ.get("TS_CONFIG_FILE") or command_line.ts_config
    if config and not Path(config).is_file():
        raise _RefusedError(f"--ts-config file not found: {config}")
    properties = read_properties(command_line, os.environ, log_dir=places.logs)
    if not properties.values.get("model_store"):
        raise _RefusedError("Missing mandatory parameter --model-store")
    for key in ("model_store", "workflow_store"):
        directory = properties.values.get(key)
        if directory and not Path(directory).is_dir():
            raise _RefusedError(f"--{key.replace('_', '-')} directory not found: {directory}")
    settings = settings_of(properties)
    if "model_snapshot" in properties.values:
        check_archives(settings.serve.models, settings.serve.model_store)
    return settings


def _stop(pid_file: PidFile) -> int:
    pid = pid_file.running()
    if pid is None:
        _say("TorchServe is not currently running.")
        return 0
    _end(pid)
    pid_file.path.unlink(missing_ok=True)
    _KEY_FILE.unlink(missing_ok=True)
    _say("TorchServe has stopped.")
    return 0


def _end(pid: int) -> None:
    """Let a server finish what it is answering; kill it when it does not end."""
    for number, timeout_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, _KILL_TIMEOUT_S)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise ConfigError(f"process {pid} belongs to another user, who may stop it") from error
        deadline_at = time.monotonic() + timeout_s
        while time.monotonic() < deadline_at:
            if not is_server(pid):
                return
            time.sleep(0.05)


def _say(text: str) -> None:
    print(text, flush=True)
