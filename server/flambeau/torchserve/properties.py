"""Where TorchServe's properties come from, and which source wins.

The file is the first of: `TS_CONFIG_FILE`, `--ts-config`, the newest snapshot,
`./config.properties`. Flags win over it, and environment variables `TS_<KEY>` win over both where
the file says `enable_envvars_config=true`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flambeau.errors import ConfigError
from flambeau.torchserve import java_properties
from flambeau.torchserve.command_line import CommandLine
from flambeau.torchserve.snapshot_files import newest_snapshot

_PLACEHOLDER = re.compile(r"\$\$([^$]+)\$\$")
_FROM_FILE_ONLY = frozenset(
    {
        *("enable_envvars_config", "use_env_allowed_urls", "allowed_urls"),
        *("model_snapshot", "models", "metric_time_interval", "system_metrics_cmd", "vmargs"),
        *("use_native_io", "io_ratio"),
    }
)
_OTHER_VARIABLES = {"token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Properties:
    """The properties that hold.

    Attributes:
        values: By key, with blanks around them removed.
        file: What was read; None when there was no file.
        from_snapshot: Whether that was a snapshot, and not what somebody chose.
    """

    values: Mapping[str, str]
    file: Path | None
    from_snapshot: bool


def read_properties(
    command_line: CommandLine, environment: Mapping[str, str], *, log_dir: Path
) -> Properties:
    """Everything that was said, each key from the source that wins.

    Args:
        command_line: The flags.
        environment: For `TS_CONFIG_FILE`, `TS_<KEY>` and values that name a variable as `$$NAME$$`.
        log_dir: Where snapshots are kept, in a directory `config`.

    Raises:
        ConfigError: The file is missing or no properties file, or names an unknown variable.
    """
    file, from_snapshot = _find_file(command_line, environment, log_dir=log_dir)
    values = {} if file is None else _read(file)
    values = {key: _filled_in(key, value, environment) for key, value in values.items()}
    values |= command_line.properties()
    if is_true(values.get("enable_envvars_config")):
        values |= _overrides(environment)
    if is_true(values.get("use_env_allowed_urls")) and "TS_ALLOWED_URLS" in environment:
        values["allowed_urls"] = environment["TS_ALLOWED_URLS"]
    if environment.get("TS_OPEN_INFERENCE_PROTOCOL", "").lower() == "oip":
        values["ts_open_inference_protocol"] = "true"
    return Properties(values=values, file=file, from_snapshot=from_snapshot)


def is_true(value: str | None) -> bool:
    """Java's reading of a boolean: anything but `true` is false."""
    return value is not None and value.strip().lower() == "true"


def _find_file(
    command_line: CommandLine, environment: Mapping[str, str], *, log_dir: Path
) -> tuple[Path | None, bool]:
    named = environment.get("TS_CONFIG_FILE") or command_line.ts_config
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"--ts-config file not found: {named}")  # TorchServe's text
        return Path(named), False
    if command_line.snapshots and (snapshot := newest_snapshot(log_dir)) is not None:
        return snapshot, True
    here = Path("config.properties")
    return (here, False) if here.is_file() else (None, False)


def _read(file: Path) -> dict[str, str]:
    try:
        text = java_properties.decode(file.read_bytes())
        return {key: value.strip() for key, value in java_properties.parse(text).items()}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error


def _filled_in(key: str, value: str, environment: Mapping[str, str]) -> str:
    def variable(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise ConfigError(
                f"{key} names the environment variable {match[1]}, which is not set; set it, or "
                f"write the value instead of $${match[1]}$$"
            )
        return environment[match[1]]

    return _PLACEHOLDER.sub(variable, value)


def _overrides(environment: Mapping[str, str]) -> dict[str, str]:
    """Properties from `TS_<KEY>`; a key that begins with `ts_` has no second one in front."""
    special = {variable: key for key, variable in _OTHER_VARIABLES.items()}
    found: dict[str, str] = {}
    for variable, value in environment.items():
        if not variable.startswith("TS_"):
            continue
        plain = variable.removeprefix("TS_").lower()
        key = special.get(variable, plain)
        if f"ts_{plain}" in _WITH_PREFIX:
            key = f"ts_{plain}"
        if key not in _FROM_FILE_ONLY and plain not in _OTHER_VARIABLES:
            found[key] = value.strip()
    return found


_WITH_PREFIX = frozenset(
    {
        *("ts_header_key_sequence_id", "ts_header_key_sequence_start"),
        *("ts_header_key_sequence_end", "ts_open_inference_protocol"),
    }
)
