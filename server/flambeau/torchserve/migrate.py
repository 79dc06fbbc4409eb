"""`flambeau migrate`: will a TorchServe installation work here, and does it answer alike?

flambeau migrate check model-store/ config.properties
flambeau migrate compare config.properties --data resnet=kitten.jpg
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from flambeau.archive import read_manifest
from flambeau.errors import ConfigError
from flambeau.store import ModelStore
from flambeau.torchserve.exchange import Request, read_requests
from flambeau.torchserve.launch import Launch, Port
from flambeau.torchserve.migration.archives import check_archive
from flambeau.torchserve.migration.comparison import (
    all_as_meant,
    compare_servers,
    request_of_file,
    requests_of_models,
    table,
)
from flambeau.torchserve.migration.configuration import check_configuration, read_configuration
from flambeau.torchserve.migration.findings import Finding, Standing, report
from flambeau.torchserve.upstream import running_flambeau, running_upstream

_OWN: Final = {  # what a comparison decides itself, lest it disturb a server that runs
    *("inference_address", "management_address", "metrics_address", "model_store"),
    *("grpc_inference_port", "grpc_management_port", "load_models", "default_workers_per_model"),
    *("grpc_inference_address", "grpc_management_address", "enable_model_api", "model_snapshot"),
    *("disable_token_authorization", "keystore", "private_key_file", "certificate_file"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Give the command its subcommands and flags."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check", help="say what works, what works differently and what is unsupported"
    )
    check.add_argument(
        "places",
        nargs="+",
        type=Path,
        metavar="PLACE",
        help="a store, archive or config.properties",
    )
    check.set_defaults(run=_check)
    compare = commands.add_parser(
        "compare", help="send the same requests to TorchServe and to Flambeau"
    )
    compare.add_argument("place", type=Path, help="a model store, or a config.properties")
    compare.add_argument(
        "--models", nargs="+", default=[], help="what to serve, as NAME=ARCHIVE (default: all)"
    )
    compare.add_argument(
        "--requests", type=Path, metavar="FILE", help="requests, one JSON per line"
    )
    compare.add_argument(
        "--data", action="append", default=[], metavar="MODEL=FILE", help="a body for a model"
    )
    compare.add_argument("--upstream", metavar="URL", help="a TorchServe that runs already")
    compare.add_argument("--upstream-management", metavar="URL", help="its management address")
    compare.add_argument("--repeat", type=int, default=5, help="times to send each (default: 5)")
    compare.add_argument("--timeout", type=float, default=120.0, help="seconds for one answer")
    compare.set_defaults(run=_compare)


def _check(args: argparse.Namespace) -> int:
    findings: list[Finding] = []
    for place in args.places:
        findings += _findings(place)
    print(report(findings))
    return int(any(finding.standing is Standing.UNSUPPORTED for finding in findings))


def _findings(place: Path) -> list[Finding]:
    if place.suffix == ".properties" or place.name.endswith(".cfg"):
        properties = read_configuration(place, os.environ)
        findings = check_configuration(properties)
        store = Path(properties.values.get("model_store", ""))
        return findings + (_of_store(store) if "model_store" in properties.values else [])
    if place.is_dir() and not (place / "MAR-INF").is_dir():
        return _of_store(place)
    if not place.exists():
        raise ConfigError(f"{place} does not exist; give a store, an archive or a configuration")
    return check_archive(place)


def _of_store(store: Path) -> list[Finding]:
    return [finding for path in _archives(store) for finding in check_archive(path)]


def _archives(store: Path) -> list[Path]:
    return [store / name for name in ModelStore(store).names()]


def _compare(args: argparse.Namespace) -> int:
    launch = _launch(args.place, tuple(args.models))
    requests = _requests(args, launch.store, launch.models)
    with ExitStack() as stack:
        ours = stack.enter_context(running_flambeau(launch))
        ours.wait_models_ready()
        theirs = _given(args) if args.upstream else None
        if theirs is None:
            started = stack.enter_context(running_upstream(launch))
            started.wait_models_ready()
            theirs = started.urls
        compared = compare_servers(
            requests,
            theirs=theirs,
            ours=ours.urls,
            num_repeats=args.repeat,
            timeout_s=args.timeout,
        )
    print(table(compared))
    return int(not all_as_meant(compared))


def _launch(place: Path, models: tuple[str, ...]) -> Launch:
    if place.is_dir():
        return Launch(store=place.resolve(), models=models or ("all",))
    values = read_configuration(place, os.environ).values
    if "model_store" not in values:
        raise ConfigError(f"{place} names no model_store; give the store's directory instead")
    loaded = tuple(part.strip() for part in values.get("load_models", "").split(",") if part)
    return Launch(
        store=Path(values["model_store"]).resolve(),
        models=models or loaded or ("all",),
        properties={key: value for key, value in values.items() if key not in _OWN},
    )


def _given(args: argparse.Namespace) -> Mapping[Port, str]:
    management = args.upstream_management or args.upstream
    return {
        Port.INFERENCE: args.upstream,
        Port.MANAGEMENT: management,
        Port.METRICS: management,
    }


def _requests(args: argparse.Namespace, store: Path, models: Sequence[str]) -> list[Request]:
    requests = [] if args.requests is None else read_requests(args.requests)
    for entry in args.data:
        model, separator, file = entry.partition("=")
        if not separator:
            raise ConfigError(f"--data is {entry!r}; give MODEL=FILE")
        requests.append(request_of_file(model, Path(file)))
    return requests or requests_of_models(_named(store, models))


def _named(store: Path, models: Sequence[str]) -> dict[str, Path]:
    """Archives by the name under which they are served."""
    named: dict[str, Path] = {}
    for entry in models:
        if entry.lower() == "all":
            for path in _archives(store):
                named[read_manifest(path).model_name or path.name.partition(".")[0]] = path
            continue
        name, separator, archive = entry.partition("=")
        path = store / (archive if separator else name)
        named[name if separator else read_manifest(path).model_name or path.stem] = path
    return named
