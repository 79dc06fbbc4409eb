"""The `flambeau` command: serve, export, archive, models, tune, optimize, migrate.

Each subcommand imports what it needs when it runs, so that `--help` is quick and only exporting
brings torch in. Errors are one line on stderr and exit code 2; a refused deployment is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import flambeau
from flambeau.config import ServeConfig
from flambeau.errors import FlambeauError

if TYPE_CHECKING:
    from flambeau.audience import Audience
    from flambeau.services import MakeService

Command: TypeAlias = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser(arguments).parse_args(arguments)
    run: Command = args.run
    try:
        return run(args)
    except FlambeauError as error:
        print(f"flambeau: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line: every command's name, and the flags of the one it gives."""
    parser = argparse.ArgumentParser(
        prog="flambeau", description="Carry a PyTorch model from training into production."
    )
    parser.add_argument("--version", action="version", version=f"flambeau {flambeau.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    given = next((word for word in arguments if not word.startswith("-")), None)
    for name, (text, add) in _COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == given:
            add(command)  # the others' imports take longer than a server's start may
    return parser


# serve


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_serve)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML")
    for spec in dataclasses.fields(ServeConfig):
        flag = "--" + spec.name.replace("_", "-")
        options: dict[str, object] = {"dest": spec.name, "default": argparse.SUPPRESS}
        if spec.type == "bool":
            options["action"] = argparse.BooleanOptionalAction
        elif spec.type == "tuple[str, ...]":
            options |= {"nargs": "+", "metavar": "MODEL" if spec.name == "models" else "VALUE"}
        else:
            options["metavar"] = "VALUE"
        default = () if spec.default is dataclasses.MISSING else spec.default
        text = f"{spec.metadata['help']} (default: {_shown(default)})"
        parser.add_argument(flag, help=text.replace("%", "%%"), **options)  # type: ignore[arg-type]  # argparse's options differ by action


def _shown(default: object) -> str:
    if default in {(), None, ""}:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _serve(args: argparse.Namespace) -> int:
    from flambeau.binding import bound_sockets  # noqa: PLC0415
    from flambeau.logging import configure  # noqa: PLC0415
    from flambeau.supervisor import supervise  # noqa: PLC0415

    names = {spec.name for spec in dataclasses.fields(ServeConfig)}
    flags = {key: value for key, value in vars(args).items() if key in names}
    config = ServeConfig.load(file=args.config, environment=os.environ, flags=flags)
    configure(config.log_level)

    def on_started(urls: Mapping[Audience, str]) -> None:
        for audience, url in urls.items():
            print(f"{audience.value} at {url}")
        print("Model server started.", flush=True)

    def run(*, is_restart: bool = False) -> int:
        from flambeau.starting import run_server  # noqa: PLC0415  # not in the supervisor

        # what a crash has interrupted goes on; only the first start may be a fresh one
        ours = dataclasses.replace(config, fresh=False) if is_restart else config
        return run_server(ours, on_started=on_started, services=_services, sockets=sockets)

    with bound_sockets(config) as sockets:
        if config.supervisor and sys.platform == "linux":
            return supervise(run, sockets)
        return run()


def _services() -> list[MakeService]:
    """What runs beside the listeners; found by name, as the core does not import `torchserve/`."""
    return [
        importlib.import_module("flambeau.torchserve.grpc.startup").make_grpc,
        importlib.import_module("flambeau.torchserve.workflows.service").make_workflows,
    ]


# export and archive


def _add_export(parser: argparse.ArgumentParser) -> None:
    from flambeau.exporting import command  # noqa: PLC0415

    command.configure(parser)
    parser.set_defaults(run=command.run)


def _add_archive(parser: argparse.ArgumentParser) -> None:
    """The flags of `torch-model-archiver`; found by name, as the core does not import it."""
    importlib.import_module("flambeau.torchserve.archiver").configure(parser)
    from flambeau import archive_command  # noqa: PLC0415

    archive_command.configure(parser)


# tune, optimize and migrate


def _add_tune(parser: argparse.ArgumentParser) -> None:
    from flambeau.tuning import command  # noqa: PLC0415

    command.configure(parser)


def _add_optimize(parser: argparse.ArgumentParser) -> None:
    from flambeau.ahead import command  # noqa: PLC0415

    command.configure(parser)


def _add_migrate(parser: argparse.ArgumentParser) -> None:
    importlib.import_module("flambeau.torchserve.migrate").configure(parser)


# models


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--management-url",
        default=os.environ.get("FLAMBEAU_MANAGEMENT_URL", "http://127.0.0.1:8081"),
        help="the server's management listener (default: %(default)s)",
    )
    parser.add_argument(
        "--token",
        default=os.environ.get("FLAMBEAU_TOKEN"),
        help="the management key of a server with --token-auth; better given as FLAMBEAU_TOKEN, "
        "since other users see the arguments of a process",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, run: Command, text: str, *, version: bool = False
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name != "list":
            command.add_argument("model", metavar="NAME")
        if version:
            command.add_argument("version", nargs="?" if name != "set-default" else None)
        return command

    add("list", _list_models, "show every model, its versions and their state")
    add("describe", _describe_model, "show one model's versions and workers", version=True)
    deploy = add("deploy", _deploy, "put a new version into service and remove the old one")
    register = add("register", _register, "add a version without making it the default")
    for command in (deploy, register):
        command.add_argument(
            "archive", metavar="ARCHIVE", help="a file, or the name of one in the model store"
        )
        command.add_argument("--workers", type=int, help="workers to start")
        command.add_argument("--batch-size", type=int, help="most requests per handler call")
        command.add_argument(
            "--model-store",
            type=Path,
            default=Path(os.environ.get("FLAMBEAU_MODEL_STORE", "model_store")),
            help="the server's model store, which a file is copied into (default: %(default)s)",
        )
    scale = add("scale", _scale, "change the number of workers", version=True)
    scale.add_argument("--workers", type=int, required=True)
    add("set-default", _set_default, "let a version answer by default", version=True)
    add("unregister", _unregister, "drain and remove a version", version=True)


def _list_models(args: argparse.Namespace) -> int:
    from flambeau.client import ManagementClient  # noqa: PLC0415

    with ManagementClient(args.management_url, token=args.token) as client:
        for entry in client.list_models():
            default = client.call("GET", _path(entry["modelName"]))[0]["modelVersion"]
            for version in client.call("GET", _path(entry["modelName"], "all")):
                words = [
                    "*" if version["modelVersion"] == default else " ",
                    *(version[key] for key in ("modelName", "modelVersion", "status")),
                    f"workers={len(version['workers'])}",
                    version["modelUrl"],
                    version["reason"],
                ]
                print(" ".join(words).rstrip())
    return 0


def _describe_model(args: argparse.Namespace) -> int:
    return _call_and_print(args, "GET", _path(args.model, args.version or "all"))


def _deploy(args: argparse.Namespace) -> int:
    from flambeau.client import ManagementClient  # noqa: PLC0415
    from flambeau.deployment import DeployStep  # noqa: PLC0415

    name = _in_store(args.archive, args.model_store)
    with ManagementClient(args.management_url, token=args.token) as client:
        for event in client.deploy(
            args.model, name, initial_workers=args.workers, batch_size=args.batch_size
        ):
            detail = f": {event.message}" if event.message else ""
            print(f"{event.model} {event.version} {event.step.value}{detail}", flush=True)
            if event.step is DeployStep.DONE:
                return 0
    return 1


def _register(args: argparse.Namespace) -> int:
    name = _in_store(args.archive, args.model_store)
    return _call_and_print(
        args,
        "POST",
        "/models",
        url=name,
        model_name=args.model,
        initial_workers=1 if args.workers is None else args.workers,
        batch_size=args.batch_size,
    )


def _scale(args: argparse.Namespace) -> int:
    return _call_and_print(
        args,
        "PUT",
        _path(args.model, args.version),
        min_worker=args.workers,
        max_worker=args.workers,
        synchronous="true",
    )


def _set_default(args: argparse.Namespace) -> int:
    return _call_and_print(args, "PUT", _path(args.model, args.version) + "/set-default")


def _unregister(args: argparse.Namespace) -> int:
    return _call_and_print(args, "DELETE", _path(args.model, args.version))


def _call_and_print(
    args: argparse.Namespace, method: str, path: str, **parameters: str | int | None
) -> int:
    from flambeau.client import ManagementClient  # noqa: PLC0415

    with ManagementClient(args.management_url, token=args.token) as client:
        answer = client.call(method, path, **parameters)
    print(answer["status"] if "status" in answer else json.dumps(answer, indent=2))
    return 0


def _path(model: str, version: str | None = None) -> str:
    return f"/models/{quote(model, safe='')}" + (f"/{quote(version, safe='')}" if version else "")


def _in_store(archive: str, store: Path) -> str:
    """The archive's name in the server's store; a file elsewhere is copied into it first."""
    from flambeau.store import ModelStore  # noqa: PLC0415

    path = Path(archive)
    if not path.is_file():
        return archive  # a name in the store; the server says when there is none
    return ModelStore(store).add(path).name


_COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "serve": ("answer predictions over HTTP", _add_serve),
    "export": ("make an archive of a checkpoint", _add_export),
    "archive": ("make an archive of files, or look into one", _add_archive),
    "models": ("change what a running server serves", _add_models),
    "tune": ("find a model's fastest settings under load", _add_tune),
    "optimize": ("find a model's fastest form ahead of time", _add_optimize),
    "migrate": ("check and compare what TorchServe serves", _add_migrate),
}
