"""TorchServe's command line, flag by flag."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Action(Enum):
    """What the command is to do."""

    START = "start"
    STOP = "stop"
    VERSION = "version"


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandLine:
    """What was given; None and empty mean that a flag was not.

    Attributes:
        action: What to do; to start unless told otherwise.
        ts_config: The configuration file.
        model_store: The directory of archives.
        workflow_store: Where workflow archives are.
        models: What to serve from the start.
        log_config: A log4j2 configuration.
        cpp_log_config: A configuration of the C++ backend's log.
        foreground: Whether to stay instead of leaving a server behind.
        snapshots: Whether the configuration is kept for the next start.
        plugins_path: Java plugins.
        token_auth: False when tokens were switched off.
        model_api: True when the model API was switched on.
    """

    action: Action = Action.START
    ts_config: Path | None = None
    model_store: Path | None = None
    workflow_store: Path | None = None
    models: tuple[str, ...] = ()
    log_config: Path | None = None
    cpp_log_config: Path | None = None
    foreground: bool = False
    snapshots: bool = True
    plugins_path: str = ""
    token_auth: bool = True
    model_api: bool = False

    @classmethod
    def parse(cls, arguments: Sequence[str] | None = None) -> CommandLine:
        """Read the arguments; ends the process with code 2 and a usage line when they are wrong."""
        args = vars(_parser().parse_args(arguments))
        wanted = [action for action in Action if args.pop(action.value)]
        args["models"] = tuple(args["models"])
        return cls(action=wanted[0] if wanted else Action.START, **args)

    def properties(self) -> dict[str, str]:
        """What the flags say, as the properties they win over."""
        given: Mapping[str, str] = {
            "model_store": str(self.model_store or ""),
            "workflow_store": str(self.workflow_store or ""),
            "load_models": ",".join(self.models),
            "plugins_path": self.plugins_path,
            "log_config": str(self.log_config or ""),
            "cpp_log_config": str(self.cpp_log_config or ""),
            "disable_token_authorization": "" if self.token_auth else "true",
            "enable_model_api": "true" if self.model_api else "",
        }
        return {key: value for key, value in given.items() if value}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchserve", description="Serve PyTorch models, with TorchServe's command line."
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("-v", "--version", action="store_true", help="print the version and leave")
    action.add_argument("--start", action="store_true", help="start a server (the default)")
    action.add_argument("--stop", action="store_true", help="stop the server that runs")
    parser.add_argument("--ts-config", type=Path, metavar="FILE", help="the configuration file")
    parser.add_argument("--model-store", type=Path, metavar="DIR", help="directory of archives")
    parser.add_argument(
        "--workflow-store", type=Path, metavar="DIR", help="directory of workflow archives"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="what to serve from the start: [NAME=]LOCATION ..., or `all`; a location is an "
        "archive of the model store or a URL",
    )
    parser.add_argument("--log-config", type=Path, metavar="FILE", help="accepted and ignored")
    parser.add_argument("--cpp-log-config", type=Path, metavar="FILE", help="accepted and ignored")
    parser.add_argument(
        "--foreground", action="store_true", help="stay, instead of leaving a server behind"
    )
    parser.add_argument(
        "--no-config-snapshots",
        "--ncs",
        dest="snapshots",
        action="store_false",
        help="keep no snapshots of the configuration, and start from none",
    )
    parser.add_argument(
        "--plugins-path", "--ppath", default="", metavar="PATH", help="accepted and ignored"
    )
    parser.add_argument(
        "--disable-token-auth",
        "--dt",
        dest="token_auth",
        action="store_false",
        help="answer without asking for tokens",
    )
    parser.add_argument(
        "--enable-model-api",
        dest="model_api",
        action="store_true",
        help="let models be registered and removed while the server runs",
    )
    return parser
