"""Checking a config.properties: every key, and the files that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flambeau.errors import ConfigError
from flambeau.torchserve.command_line import CommandLine
from flambeau.torchserve.migration.findings import Finding, Standing
from flambeau.torchserve.properties import Properties, read_properties
from flambeau.torchserve.settings import settings_of

_FIXES: Final[Mapping[str, str]] = {
    "plugins_path": "do its work in a proxy, in a handler, or by Flambeau's own API",
    "cpp_log_config": "serve the model with runtime python",
}
_UNSUPPORTED: Final = {"plugins_path", "cpp_log_config"}
_FILES: Final = ("model_store", "workflow_store", "metrics_config", "private_key_file",
                 "certificate_file", "keystore")  # fmt: skip


def read_configuration(file: Path, environment: Mapping[str, str]) -> Properties:
    """The properties of a file, as a start with `--ts-config` reads them.

    Raises:
        ConfigError: There is no such file, or it cannot be read.
    """
    return read_properties(
        CommandLine(ts_config=file, snapshots=False), environment, log_dir=Path("logs")
    )


def check_configuration(properties: Properties) -> list[Finding]:
    """What is to be said about a configuration."""
    subject = str(properties.file)

    def finding(topic: str, standing: Standing, reason: str = "", fix: str = "") -> Finding:
        return Finding(subject=subject, topic=topic, standing=standing, reason=reason, fix=fix)

    try:
        notices = settings_of(properties).notices
    except ConfigError as error:
        return [
            finding("values", Standing.UNSUPPORTED, str(error), "correct it; it would not start")
        ]
    findings = [
        finding(key, Standing.UNSUPPORTED, f"there is no {properties.values[key]}", "correct it")
        for key in _FILES
        if key in properties.values and not Path(properties.values[key]).exists()
    ]
    for key in properties.values:
        notice = next((each for each in notices if each.startswith(f"{key} ")), None)
        if notice is None:
            findings.append(finding(key, Standing.WORKS))
        else:
            standing = Standing.UNSUPPORTED if key in _UNSUPPORTED else Standing.DIFFERS
            reason = notice.removeprefix(f"{key} is ")
            findings.append(finding(key, standing, reason, _FIXES.get(key, "leave it out")))
    return findings
