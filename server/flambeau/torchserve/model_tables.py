"""The properties that hold JSON: `models` and `model_snapshot`, what versions run with.

TorchServe's reader takes single quotes and keys without quotes, too, and so does this one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from flambeau.config import OVER_YAML
from flambeau.errors import ConfigError


def model_fields(given: Mapping[str, str]) -> dict[str, Any]:
    """What to serve from the start, and what versions run with; a snapshot decides both."""
    settings = _document("models", given.get("models", "{}"))
    if "model_snapshot" not in given:
        return {"models": parts(given.get("load_models", "")), "model_settings": settings}
    snapshot = _document("model_snapshot", given["model_snapshot"])
    models = _table("model_snapshot", snapshot.get("models", {}))
    places = [
        f"{name}={_archive(name, version, entry)}"
        for name, versions in models.items()
        for version, entry in versions.items()
    ]
    for versions in models.values():
        for entry in versions.values():
            entry[OVER_YAML] = True
    return {"models": tuple(places), "model_settings": settings | models}


def parts(value: str) -> tuple[str, ...]:
    """What commas separate, without blanks."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _archive(name: str, version: str, entry: Mapping[str, Any]) -> str:
    archive = entry.get("marName")
    if not isinstance(archive, str) or not archive:
        raise ConfigError(f"model_snapshot gives no marName for {name} version {version}; add it")
    return archive


def _document(key: str, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        document = _read_leniently(text)
        if document is None:
            raise ConfigError(f"{key} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{key} is {text}; give a JSON object")
    return document if key == "model_snapshot" else _table(key, document)


def _table(key: str, document: object) -> dict[str, dict[str, dict[str, Any]]]:
    """Settings by model and version, checked to be that deep."""
    deep = isinstance(document, dict) and all(
        isinstance(versions, dict) and all(isinstance(entry, dict) for entry in versions.values())
        for versions in document.values()
    )
    if not deep:
        raise ConfigError(f'{key} is no table of models; give {{"model": {{"1.0": {{...}}}}}}')
    assert isinstance(document, dict)
    return document


def _read_leniently(text: str) -> object:
    """What YAML, which is laxer, makes of the text; None if nothing."""
    try:
        return _plain(yaml.compose(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError:
        return None


def _plain(node: yaml.Node | None) -> object:
    """A node's value; keys stay as they are written: a version 1.0 is no number."""
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value) for value in node.value]
    return yaml.safe_load(yaml.serialize(node)) if isinstance(node, yaml.ScalarNode) else None
