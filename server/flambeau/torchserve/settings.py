"""From TorchServe's properties to the server's settings: every key it knows, honoured or named.

What a key means is in `_SETTINGS`; what has no meaning here is in `_IGNORED` with the reason, which
is what the one warning about it says. A key that neither table has is unknown, which TorchServe
passes over in silence and we name once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flambeau.address import Address
from flambeau.config import MetricsMode, ServeConfig
from flambeau.errors import ConfigError
from flambeau.torchserve.addresses import parse_address
from flambeau.torchserve.keystore import Keystore
from flambeau.torchserve.model_tables import model_fields, parts
from flambeau.torchserve.properties import Properties, is_true

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a start with TorchServe's configuration amounts to.

    Attributes:
        serve: The server's settings.
        properties: What they were made of.
        keystore: Where the certificate is when it is in no PEM file.
        notices: What the log warns of: what was accepted and changes nothing, and risks.
    """

    serve: ServeConfig
    properties: Properties
    keystore: Keystore | None
    notices: tuple[str, ...]


def settings_of(properties: Properties) -> Settings:
    """The settings that properties ask for, with TorchServe's defaults.

    Raises:
        ConfigError: A value that is wrong, or no model store.
    """
    given = {key: value for key, value in properties.values.items() if value}
    if "model_store" not in given:
        raise ConfigError("Missing mandatory parameter --model-store")  # TorchServe's text
    fields: dict[str, Any] = {
        # what TorchServe has by default where we have something else
        "enable_model_api": False,
        "token_auth": True,
        "token_status_400": True,
        "open_inference_protocol": False,
        "state_file": "",  # its snapshots remember what is served
        "metrics_mode": MetricsMode.LOG,
        "allowed_urls": (r"file://.*|http(s)?://.*",),
        "one_worker_per_cpu": True,
        "pass_env_vars": ".*",  # handlers may read their keys there
        # whoever writes 0.0.0.0 into this file is obeyed, as TorchServe does
        "allow_remote_management": True,
        "allow_remote_inference": True,
    }
    for key, (name, convert) in _SETTINGS.items():
        if key in given:
            fields[name] = _converted(key, given[key], convert)
    fields |= _grpc_addresses(given)
    if _names_built_in_metrics(given):
        del fields["metrics_config"]
    fields |= model_fields(given)
    if "keystore" in given:  # it wins
        fields |= {"certificate_file": None, "private_key_file": None}
    serve = ServeConfig(**fields)
    return Settings(
        serve=serve,
        properties=properties,
        keystore=_keystore(given),
        notices=(*_notices(given), *_risks(serve)),
    )


def _converted(key: str, value: str, convert: Callable[[str], _T]) -> _T:
    try:
        return convert(value)
    except ValueError as error:
        raise ConfigError(f"{key} is {value!r}; {error}") from error


def _int(value: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", value):
        raise ValueError("give a whole number")
    return int(value)


def _float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError("give a number") from None


def _mode(value: str) -> MetricsMode:
    try:
        return MetricsMode(value.lower())
    except ValueError:
        raise ValueError("give log, prometheus or legacy") from None


def _address(key: str) -> Callable[[str], Address]:
    return lambda value: parse_address(value, key=key)


def _not(value: str) -> bool:
    return not is_true(value)


_SETTINGS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "inference_address": ("inference_address", _address("inference_address")),
    "management_address": ("management_address", _address("management_address")),
    "metrics_address": ("metrics_address", _address("metrics_address")),
    "model_store": ("model_store", Path),
    "workflow_store": ("workflow_store", Path),
    "default_workers_per_model": ("default_workers_per_model", _int),
    "default_response_timeout": ("default_response_timeout_s", _float),
    "default_startup_timeout": ("default_startup_timeout_s", _float),
    "unregister_model_timeout": ("unregister_timeout_s", _float),
    "job_queue_size": ("job_queue_size", _int),
    "number_of_gpu": ("num_gpus", _int),
    "max_request_size": ("max_request_bytes", _int),
    "max_response_size": ("max_response_bytes", _int),
    "limit_max_image_pixels": ("limit_max_image_pixels", is_true),
    "default_service_handler": ("default_service_handler", str),
    "service_envelope": ("service_envelope", str),
    "decode_input_request": ("decode_input_request", is_true),
    "install_py_dep_per_model": ("install_py_dep_per_model", is_true),
    "allowed_urls": ("allowed_urls", parts),
    "blacklist_env_vars": ("blacklist_env_vars", str),
    "enable_metrics_api": ("metrics_api", is_true),
    "metrics_mode": ("metrics_mode", _mode),
    "metrics_config": ("metrics_config", Path),
    "model_metrics_auto_detect": ("model_metrics_auto_detect", is_true),
    "disable_system_metrics": ("system_metrics", _not),
    "metric_time_interval": ("metric_time_interval_s", _float),
    "cors_allowed_origin": ("cors_allowed_origin", str),
    "cors_allowed_methods": ("cors_allowed_methods", str),
    "cors_allowed_headers": ("cors_allowed_headers", str),
    "private_key_file": ("private_key_file", Path),
    "certificate_file": ("certificate_file", Path),
    "enable_model_api": ("enable_model_api", is_true),
    "disable_token_authorization": ("token_auth", _not),
    "token_expiration_min": ("token_expiration_min", _float),
    "ts_open_inference_protocol": ("open_inference_protocol", is_true),
    "ts_header_key_sequence_id": ("sequence_id_header", str),
    "ts_header_key_sequence_start": ("sequence_start_header", str),
    "ts_header_key_sequence_end": ("sequence_end_header", str),
    "initial_worker_port": ("initial_worker_port", _int),
    **{
        key: (key, _int)
        for key in (
            "grpc_inference_max_connection_age_ms",
            "grpc_inference_max_connection_age_grace_ms",
            "grpc_management_max_connection_age_ms",
            "grpc_management_max_connection_age_grace_ms",
        )
    },
    "debug": ("one_worker_per_cpu", _not),
    "use_torchserve_package": ("use_torchserve_package", is_true),
}

_READ_ELSEWHERE = frozenset(
    {
        *("load_models", "models", "model_snapshot"),
        *("grpc_inference_address", "grpc_management_address", "enable_grpc_ssl"),
        *("grpc_inference_port", "grpc_management_port"),
        *("keystore", "keystore_pass", "keystore_type"),
        *("enable_envvars_config", "use_env_allowed_urls"),
        *("version", "tsConfigFile"),  # what TorchServe writes into its snapshots, for readers
    }
)

_JAVA = "it tunes the Java server, and there is none"
_IGNORED: Mapping[str, str] = {
    "async_logging": "logs are always written beside the event loop",
    "cpp_log_config": "there is no C++ backend",
    "cpu_launcher_args": "workers are started without a launcher",
    "cpu_launcher_enable": "workers are started without a launcher",
    "initial_distribution_port": "distributed workers find a free port themselves",
    "io_ratio": _JAVA,
    "ipex_enable": "Intel's extension is not used; torch.compile has taken its place",
    "ipex_gpu_enable": "Intel's extension is not used",
    "log_config": "the logs have TorchServe's layout, and no other",
    "model_server_home": "handlers are found without it",
    "netty_client_threads": _JAVA,
    "number_of_netty_threads": _JAVA,
    "plugins_path": "plugins are Java code, which cannot run here",
    "prefer_direct_buffer": _JAVA,
    "system_metrics_cmd": "the machine is sampled without a command",
    "use_native_io": _JAVA,
    "vmargs": _JAVA,
}


def _notices(given: Mapping[str, str]) -> list[str]:
    """What to say of keys that change nothing; silence where they ask for nothing."""
    known = _SETTINGS.keys() | _READ_ELSEWHERE
    notices: list[str] = []
    for key, value in given.items():
        if key in _IGNORED:
            if value.lower() not in {"false", "0"}:
                notices.append(f"{key} is accepted and changes nothing: {_IGNORED[key]}")
        elif key == "metrics_config" and _names_built_in_metrics(given):
            notices.append(f"{value} is not there; the same metrics are built in, and are used")
        elif key not in known:
            notices.append(f"{key} is accepted and changes nothing: no such setting is known")
    return notices


def _names_built_in_metrics(given: Mapping[str, str]) -> bool:
    """Whether metrics_config is the file of a TorchServe that is not installed here."""
    path = Path(given.get("metrics_config", ""))
    return path.parts[-3:] == ("ts", "configs", "metrics.yaml") and not path.exists()


def _risks(config: ServeConfig) -> list[str]:
    """What the configuration lets strangers do; it is obeyed all the same."""
    if config.token_auth or not config.enable_model_api:
        return []
    open_to_others = [
        f"{name} is {getattr(config, name)}"
        for name in ("management_address", *(["grpc_management_address"] if config.grpc else []))
        if not getattr(config, name).is_loopback
    ]
    if not open_to_others:
        return []
    risk = "models may be registered there, and no token is asked for: whoever reaches it can run"
    return [f"{' and '.join(open_to_others)}, {risk} code here"]


def _grpc_addresses(given: Mapping[str, str]) -> dict[str, Address]:
    tls = is_true(given.get("enable_grpc_ssl"))
    addresses: dict[str, Address] = {}
    for audience, port in (("inference", "7070"), ("management", "7071")):
        key = f"grpc_{audience}_port"
        number = _converted(key, given.get(key, port), _int)
        if not 0 <= number <= 65535:
            raise ConfigError(f"{key} is {number}; give a port from 0 to 65535")
        host = given.get(f"grpc_{audience}_address", "127.0.0.1").strip("[]")
        addresses[f"grpc_{audience}_address"] = Address(host, number, tls=tls)
    return addresses


def _keystore(given: Mapping[str, str]) -> Keystore | None:
    if "keystore" not in given:
        return None
    return Keystore(
        path=Path(given["keystore"]),
        password=given.get("keystore_pass", "changeit"),
        kind=given.get("keystore_type", "PKCS12"),
    )
