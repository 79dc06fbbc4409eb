"""The server's settings, one frozen dataclass.

Later sources win: defaults, file, environment, flags. The file is TOML with the field names as
keys; the environment uses `FLAMBEAU_` and the name in capitals; flags use the name with dashes.
What a model sets for itself is in `model_settings.py`.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from flambeau.address import Address
from flambeau.errors import ConfigError
from flambeau.messages import SEQUENCE_HEADERS, IsolationLevel, OptimizeLevel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_C = TypeVar("_C", bound="ServeConfig")
_ENVIRONMENT_PREFIX = "FLAMBEAU_"
OVER_YAML = "overYaml"
"""In a version's configured settings: they win over its archive's YAML at the start."""

AUTO_STATE_FILE = "auto"
"""The state file's name where nobody has chosen one."""

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


class MetricsMode(str, Enum):
    """Where TorchServe's metrics go."""

    PROMETHEUS = "prometheus"
    LOG = "log"
    LEGACY = "legacy"

    def __str__(self) -> str:
        return self.value


class SignaturePolicy(str, Enum):
    """What is done with archives that no trusted key has signed."""

    OFF = "off"
    WARN = "warn"
    REQUIRE = "require"

    def __str__(self) -> str:
        return self.value


def _help(text: str) -> dict[str, str]:
    """Metadata of a field: the sentence that `--help` and the docs show."""
    return {"help": text}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """Everything `flambeau serve` can be told; validated when built."""

    inference_address: Address = field(
        default=Address("127.0.0.1", 8080),
        metadata=_help(
            "where predictions are answered: HOST:PORT, https://HOST:PORT or unix:/PATH"
        ),
    )
    management_address: Address = field(
        default=Address("127.0.0.1", 8081),
        metadata=_help(
            "where models are registered, scaled and removed, HOST:PORT; the same as "
            "inference_address to have one listener for both"
        ),
    )
    metrics_address: Address = field(
        default=Address("127.0.0.1", 8082), metadata=_help("where Prometheus scrapes, HOST:PORT")
    )
    metrics_api: bool = field(default=True, metadata=_help("open the metrics listener"))
    grpc: bool = field(default=True, metadata=_help("answer over gRPC, too"))
    grpc_inference_address: Address = field(
        default=Address("127.0.0.1", 7070),
        metadata=_help("where predictions are answered over gRPC, HOST:PORT"),
    )
    grpc_management_address: Address = field(
        default=Address("127.0.0.1", 7071),
        metadata=_help("where models are managed over gRPC, HOST:PORT"),
    )
    grpc_inference_max_connection_age_ms: int = field(
        default=0, metadata=_help("milliseconds until clients must connect again; 0: never")
    )
    grpc_inference_max_connection_age_grace_ms: int = field(
        default=0, metadata=_help("milliseconds that calls may go on after that; 0: no limit")
    )
    grpc_management_max_connection_age_ms: int = field(
        default=0, metadata=_help("the same for management; 0: never")
    )
    grpc_management_max_connection_age_grace_ms: int = field(
        default=0, metadata=_help("the same for management; 0: no limit")
    )
    allow_remote_management: bool = field(
        default=False,
        metadata=_help(
            "bind the management listener to other addresses than this machine's own; whoever "
            "reaches it can run code here"
        ),
    )
    allow_remote_inference: bool = field(
        default=False,
        metadata=_help(
            "bind the inference listener to other addresses than this machine's own without asking "
            "for tokens; whoever reaches it can use the models"
        ),
    )
    enable_model_api: bool = field(
        default=True,
        metadata=_help("allow registering, deploying and removing models over HTTP"),
    )
    model_store: Path = field(
        default=Path("model_store"), metadata=_help("directory of model archives")
    )
    workflow_store: Path | None = field(
        default=None, metadata=_help("directory of workflow archives; the model store if not given")
    )
    state_file: str = field(
        default=AUTO_STATE_FILE,
        metadata=_help(
            "file on a local disk that remembers what is registered, scaled, made default or "
            "removed; auto: one for each model store, below XDG_STATE_HOME; empty: none"
        ),
    )
    fresh: bool = field(
        default=False,
        metadata=_help("begin with what is configured, not with what the state file remembers"),
    )
    supervisor: bool = field(
        default=True,
        metadata=_help(
            "keep a small parent process that holds the listening sockets and starts the server "
            "again when it crashes; on Linux"
        ),
    )
    models: tuple[str, ...] = field(
        default=(),
        metadata=_help("archives to serve from the start: NAME=ARCHIVE, ARCHIVE, or `all`"),
    )
    model_settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(
        default_factory=dict[str, Mapping[str, Mapping[str, Any]]],
        metadata=_help(
            "settings by model and version in the keys of a model's YAML, which wins over them; a "
            "version with defaultVersion answers by default, and overYaml turns the order round; "
            "JSON on the command line"
        ),
    )
    default_workers_per_model: int = field(
        default=0,
        metadata=_help(
            "workers of a model loaded at the start; 0: one for each GPU, or one without GPUs"
        ),
    )
    one_worker_per_cpu: bool = field(
        default=False,
        metadata=_help(
            "without GPUs, start a worker for each CPU and model loaded at the start, as "
            "TorchServe does"
        ),
    )
    fork_workers: bool = field(
        default=True,
        metadata=_help(
            "start workers as copies of a process that has imported PyTorch, not by importing it "
            "each time; on Linux"
        ),
    )
    optimize: OptimizeLevel = field(
        default=OptimizeLevel.SAFE,
        metadata=_help(
            "how far models may be changed to run faster: off, safe (the same numbers) or auto "
            "(the same classes); a model's YAML wins"
        ),
    )
    isolation: IsolationLevel = field(
        default=IsolationLevel.BASIC,
        metadata=_help(
            "how far workers are kept from the rest of the machine: off, basic (limits) or strict "
            "(a fence around files, TCP and signals, too); a model's YAML may ask for more"
        ),
    )
    worker_read_paths: tuple[str, ...] = field(
        default=(), metadata=_help("files and directories that workers behind the fence may read")
    )
    worker_write_paths: tuple[str, ...] = field(
        default=(), metadata=_help("directories that they may write to, beside their own")
    )
    worker_max_open_files: int = field(
        default=16_384, metadata=_help("open files of a worker; 0: as many as the server may")
    )
    worker_max_processes: int = field(
        default=16_384,
        metadata=_help(
            "processes and threads of the server's user that a worker still starts others with; "
            "0: no limit; root has none"
        ),
    )
    worker_max_file_bytes: int = field(
        default=1 << 36, metadata=_help("largest file a worker may write, in bytes; 0: no limit")
    )
    quarantine_s: float = field(
        default=300.0,
        metadata=_help(
            "seconds for which a request that ended two workers is refused; 0: it never is"
        ),
    )
    num_gpus: int = field(default=-1, metadata=_help("CUDA devices to use; -1: all there are"))
    job_queue_size: int = field(
        default=100, metadata=_help("requests that may wait per model version")
    )
    max_request_bytes: int = field(
        default=6_553_500, metadata=_help("largest request body, in bytes")
    )
    max_response_bytes: int = field(default=6_553_500, metadata=_help("largest answer, in bytes"))
    default_response_timeout_s: float = field(
        default=120.0, metadata=_help("seconds one batch may take")
    )
    default_startup_timeout_s: float = field(
        default=120.0, metadata=_help("seconds a worker may take to be ready")
    )
    unregister_timeout_s: float = field(
        default=120.0,
        metadata=_help("seconds the caller of a removal waits for its end; the removal goes on"),
    )
    drain_timeout_s: float = field(
        default=30.0,
        metadata=_help(
            "seconds that requests in flight have to finish when a version or the server stops"
        ),
    )
    drain_delay_s: float = field(
        default=0.0,
        metadata=_help(
            "seconds between `not ready` and closing the listener, for load balancers to notice"
        ),
    )
    keep_alive_s: float = field(
        default=75.0, metadata=_help("seconds an idle connection is kept open")
    )
    header_timeout_s: float = field(
        default=10.0,
        metadata=_help("seconds a client may take to connect over TLS, or to send its headers"),
    )
    body_timeout_s: float = field(
        default=60.0,
        metadata=_help("seconds a body may take to arrive, and one more for each 8 KiB of it"),
    )
    write_timeout_s: float = field(
        default=30.0,
        metadata=_help("seconds until a client is dropped that reads less than 8 KiB a second"),
    )
    max_connections: int = field(
        default=0,
        metadata=_help(
            "connections the inference listener takes at a time, the others a 16th of it; 0: what "
            "the limit on open files (`ulimit -n`) allows"
        ),
    )
    fixed_batch_window: bool = field(
        default=False,
        metadata=_help(
            "hold each batch that is not full for max_batch_delay, as TorchServe does, even when "
            "a worker is idle"
        ),
    )
    token_auth: bool = field(
        default=False, metadata=_help("ask for a token with every inference and management call")
    )
    token_expiration_min: float = field(
        default=60.0, metadata=_help("minutes until a token must be renewed")
    )
    token_status_400: bool = field(
        default=False,
        metadata=_help("answer 400 to a wrong token, as TorchServe does, instead of 401 or 403"),
    )
    key_file: Path = field(
        default=Path("key_file.json"), metadata=_help("where the tokens are written at the start")
    )
    certificate_file: Path | None = field(
        default=None,
        metadata=_help(
            "certificate chain, PEM, of listeners with https:// addresses; none: a self-signed one"
        ),
    )
    private_key_file: Path | None = field(
        default=None, metadata=_help("private key of the certificate, PEM")
    )
    client_ca_file: Path | None = field(
        default=None,
        metadata=_help(
            "authorities, PEM, one of which must have signed the certificate that clients of "
            "https:// addresses then have to show; none: clients need no certificate"
        ),
    )
    host_names: tuple[str, ...] = field(
        default=(),
        metadata=_help(
            "names, without ports, that requests over HTTP may call the server by, besides "
            "localhost and numbers of addresses; none: any"
        ),
    )
    cors_allowed_origin: str = field(
        default="", metadata=_help("Access-Control-Allow-Origin of every response")
    )
    cors_allowed_methods: str = field(
        default="", metadata=_help("Access-Control-Allow-Methods of every response")
    )
    cors_allowed_headers: str = field(
        default="", metadata=_help("Access-Control-Allow-Headers of every response")
    )
    allowed_urls: tuple[str, ...] = field(
        default=(),
        metadata=_help(
            "regular expressions of addresses that archives may be fetched from; none: the model "
            "store only"
        ),
    )
    allowed_hosts: tuple[str, ...] = field(
        default=(),
        metadata=_help(
            "hosts that archives may be fetched from: HOST or HOST:PORT over HTTPS, "
            "http://HOST:PORT without; no redirects, public addresses only"
        ),
    )
    private_hosts: tuple[str, ...] = field(
        default=(),
        metadata=_help("those of allowed_hosts whose addresses may be of a private network"),
    )
    require_sha256: bool = field(
        default=True,
        metadata=_help("ask for the `sha256` of what is fetched from allowed_hosts"),
    )
    signatures: SignaturePolicy = field(
        default=SignaturePolicy.OFF,
        metadata=_help("archives that no trusted key has signed: off, warn or require"),
    )
    trusted_keys: tuple[str, ...] = field(
        default=(),
        metadata=_help("public keys that may sign archives: files in PEM, and directories of them"),
    )
    revoked_keys: tuple[str, ...] = field(
        default=(), metadata=_help("ids of keys that are not trusted, wherever they are")
    )
    unpack_store: Path | None = field(
        default=None,
        metadata=_help(
            "directory that keeps what archives unpack to, for the next start and for other "
            "servers; none: it goes away with the server"
        ),
    )
    install_py_dep_per_model: bool = field(
        default=False, metadata=_help("install each archive's requirements for its workers")
    )
    requirements_require_hashes: bool = field(
        default=False, metadata=_help("install requirements only with the hash of each package")
    )
    requirements_find_links: Path | None = field(
        default=None,
        metadata=_help("install requirements from the packages in this directory, and no index"),
    )
    requirements_timeout_s: float = field(
        default=3600.0, metadata=_help("seconds that one archive's requirements may take")
    )
    default_service_handler: str = field(
        default="", metadata=_help("handler of archives that name none")
    )
    service_envelope: str = field(
        default="", metadata=_help("envelope around every handler: body, json, kserve or kservev2")
    )
    decode_input_request: bool = field(
        default=True, metadata=_help("hand JSON and text to handlers decoded")
    )
    limit_max_image_pixels: bool = field(
        default=True, metadata=_help("refuse images of more pixels than Pillow thinks safe")
    )
    open_inference_protocol: bool = field(
        default=True, metadata=_help("answer the Open Inference Protocol's routes, too")
    )
    sequence_id_header: str = field(
        default=SEQUENCE_HEADERS[0], metadata=_help("header with the id of a sequence of requests")
    )
    sequence_start_header: str = field(
        default=SEQUENCE_HEADERS[1], metadata=_help("header that begins a sequence")
    )
    sequence_end_header: str = field(
        default=SEQUENCE_HEADERS[2], metadata=_help("header that ends a sequence")
    )
    metrics_mode: MetricsMode = field(
        default=MetricsMode.PROMETHEUS,
        metadata=_help("where TorchServe's metrics go: prometheus, log or legacy"),
    )
    metrics_config: Path | None = field(
        default=None, metadata=_help("metrics.yaml; what it does not list is dropped")
    )
    model_metrics_auto_detect: bool = field(
        default=False, metadata=_help("take metrics from handlers that no metrics.yaml lists")
    )
    system_metrics: bool = field(
        default=True, metadata=_help("sample CPU, memory, disk and GPU use of the machine")
    )
    metric_time_interval_s: float = field(
        default=60.0, metadata=_help("seconds between two samples of the machine")
    )
    blacklist_env_vars: str = field(
        default="",
        metadata=_help("regular expression of environment variables hidden from workers"),
    )
    pass_env_vars: str = field(
        default="",
        metadata=_help(
            "regular expression of environment variables that workers get although their names "
            "look like those of credentials or proxies"
        ),
    )
    initial_worker_port: int = field(
        default=9000, metadata=_help("number of the first worker, as TorchServe counts them")
    )
    use_torchserve_package: bool = field(
        default=False,
        metadata=_help("let handlers import `ts` from an installed torchserve, not from Flambeau"),
    )
    archive_digest_header: bool = field(
        default=False,
        metadata=_help("say in x-archive-digest of each prediction which archive answered"),
    )
    access_log: bool = field(default=True, metadata=_help("log one line per request"))
    audit_log: Path | None = field(
        default=None,
        metadata=_help(
            "file to which one line is appended for each management call that changes something or "
            "is refused; such lines are in the log in any case"
        ),
    )
    fast_lane: bool = field(
        default=True, metadata=_help("answer predictions without the web framework's detour")
    )
    log_level: str = field(default="INFO", metadata=_help("DEBUG, INFO, WARNING or ERROR"))

    def __post_init__(self) -> None:
        for name, minimum in _MINIMA.items():
            _require(self, name, minimum=minimum)
        if self.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ConfigError(f"log_level is {self.log_level!r}; use DEBUG, INFO, WARNING or ERROR")
        if (self.certificate_file is None) is not (self.private_key_file is None):
            raise ConfigError("certificate_file and private_key_file belong together; give both")
        if self.client_ca_file is not None and self.certificate_file is None:
            raise ConfigError(
                "client_ca_file is given without certificate_file: clients that show certificates "
                "have to know the server by one of its own; give certificate_file, too"
            )
        for name in self.host_names:
            if re.fullmatch(r"[A-Za-z0-9._-]+", name) is None:
                raise ConfigError(
                    f"host_names has {name!r}; give names without ports, e.g. models.example"
                )
        _require_pattern(self, "blacklist_env_vars")
        _require_pattern(self, "pass_env_vars")
        self._require_closed_listeners()

    def _require_closed_listeners(self) -> None:
        """Raises ConfigError when other machines could do what nobody said that they may."""
        risks = {
            "management": "whoever registers a model runs code here",
            "inference": "whoever asks a model uses this machine",
        }
        for listener, risk in risks.items():
            if self.token_auth or getattr(self, f"allow_remote_{listener}"):
                continue
            for name in (f"{listener}_address", f"grpc_{listener}_address"):
                address: Address = getattr(self, name)
                if address.is_loopback or (name.startswith("grpc_") and not self.grpc):
                    continue
                raise ConfigError(
                    f"{name} is {address}, which other machines can reach, and {risk}; bind it to "
                    f"127.0.0.1, ask for tokens (token_auth), or set allow_remote_{listener} when "
                    "the network in front of it is closed"
                )

    @classmethod
    def load(
        cls: type[_C],
        *,
        file: Path | None = None,
        environment: Mapping[str, str],
        flags: Mapping[str, object],
    ) -> _C:
        """Merge all sources; `flags` holds what was given on the command line only.

        Raises:
            ConfigError: A file that cannot be read, or a key or value that is wrong.
        """
        values: dict[str, Any] = {}
        if file is not None:
            for key, value in _read_toml(file).items():
                values[key] = _convert(cls, key, value, f"{file}: {key}")
        for spec in fields(cls):
            variable = _ENVIRONMENT_PREFIX + spec.name.upper()
            if variable in environment:
                values[spec.name] = _convert(cls, spec.name, environment[variable], variable)
        for key, value in flags.items():
            values[key] = _convert(cls, key, value, "--" + key.replace("_", "-"))
        return cls(**values)


_MINIMA: Mapping[str, float] = {
    **dict.fromkeys(("job_queue_size", "max_request_bytes", "max_response_bytes"), 1),
    **dict.fromkeys(("default_workers_per_model", "drain_timeout_s", "drain_delay_s"), 0),
    **dict.fromkeys(("unregister_timeout_s", "quarantine_s", "worker_max_open_files"), 0),
    **dict.fromkeys(("worker_max_processes", "worker_max_file_bytes", "max_connections"), 0),
    **dict.fromkeys(("default_response_timeout_s", "default_startup_timeout_s"), 0.001),
    **dict.fromkeys(("keep_alive_s", "header_timeout_s", "body_timeout_s"), 0.001),
    **dict.fromkeys(("write_timeout_s", "token_expiration_min", "metric_time_interval_s"), 0.001),
    "requirements_timeout_s": 0.001,
    "num_gpus": -1,
}


def _require(config: ServeConfig, name: str, *, minimum: float) -> None:
    value = getattr(config, name)
    if not value >= minimum:
        raise ConfigError(f"{name} is {value}; use {minimum:g} or more")


def _require_pattern(config: ServeConfig, name: str) -> None:
    pattern = getattr(config, name)
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{name} is {pattern!r}, which is no regular expression: {error}"
        ) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {file} cannot be read: {error}") from error
    return document


def _convert(cls: type, key: str, value: object, source: str) -> object:
    """A value as its field's type; `source` is what the message calls it."""
    converters = {spec.name: _CONVERTERS[str(spec.type)] for spec in fields(cls)}
    if key not in converters:
        near = difflib.get_close_matches(key, converters, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(converters)}"
        raise ConfigError(f"{source} is not a setting; {hint}")
    try:
        return converters[key](value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source} is {value!r}; {error}") from error


def _bool(value: object) -> bool:
    text = str(value).lower()
    if text not in _TRUE | _FALSE:
        raise ValueError("give true or false")
    return text in _TRUE


def _int(value: object) -> int:
    if isinstance(value, (bool, float)):
        raise TypeError("give a whole number")
    try:
        return int(str(value))
    except ValueError:
        raise ValueError("give a whole number") from None


def _float(value: object) -> float:
    if isinstance(value, bool):
        raise TypeError("give a number of seconds")
    try:
        return float(str(value))
    except ValueError:
        raise ValueError("give a number of seconds") from None


def _metrics_mode(text: str) -> MetricsMode:
    try:
        return MetricsMode(text.lower())
    except ValueError:
        raise ValueError("give prometheus, log or legacy") from None


def _signature_policy(value: object) -> SignaturePolicy:
    try:
        return SignaturePolicy(str(value).lower())
    except ValueError:
        raise ValueError("give off, warn or require") from None


def _optimize_level(value: object) -> OptimizeLevel:
    try:
        return OptimizeLevel(str(value).lower())
    except ValueError:
        raise ValueError("give off, safe or auto") from None


def _isolation_level(value: object) -> IsolationLevel:
    try:
        return IsolationLevel(str(value).lower())
    except ValueError:
        raise ValueError("give off, basic or strict") from None


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, (list, tuple)):
        return tuple(str(part) for part in value)
    raise TypeError("give a list of names")


def _table(value: object) -> dict[str, dict[str, dict[str, Any]]]:
    """Settings by model and version, from a TOML table or JSON text."""
    wanted = 'give {"model": {"version": {"batchSize": 4}}}'
    try:
        document = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{wanted}; {error}") from error
    models = _entries(document, wanted)
    return {
        name: {
            version: _entries(settings, wanted)
            for version, settings in _entries(versions, wanted).items()
        }
        for name, versions in models.items()
    }


def _entries(value: object, wanted: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(wanted)
    return {str(key): entry for key, entry in value.items()}


_TABLE = "Mapping[str, Mapping[str, Mapping[str, Any]]]"
_CONVERTERS: dict[str, Callable[[object], object]] = {
    _TABLE: _table,
    "Address": lambda value: Address.parse(str(value)),
    "IsolationLevel": _isolation_level,
    "OptimizeLevel": _optimize_level,
    "MetricsMode": lambda value: _metrics_mode(str(value)),
    "SignaturePolicy": _signature_policy,
    "Path": lambda value: Path(str(value)),
    "Path | None": lambda value: Path(str(value)) if str(value) else None,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": str,
    "tuple[str, ...]": _names,
}
