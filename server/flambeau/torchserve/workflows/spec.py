"""A workflow's specification: its models, and which node's answer goes to which.

models:
  max-workers: 2            # defaults for all of them
  classify: {url: classify.mar, batch-size: 8}
dag:
  prepare: [classify]       # not a model: a function of the workflow's handler file
  classify: [join]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from flambeau.errors import ArchiveError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSettings:
    """How one node is run; the defaults are TorchServe's.

    Attributes:
        min_workers: Workers to keep, 1 or more.
        max_workers: At least `min_workers`.
        batch_size: Most requests per handler call.
        max_batch_delay: Milliseconds a batch may be held back.
        retry_attempts: How often a request is tried, 1 or more.
        timeout_ms: Milliseconds each try may take.
    """

    min_workers: int = 1
    max_workers: int = 1
    batch_size: int = 1
    max_batch_delay: int = 50
    retry_attempts: int = 1
    timeout_ms: int = 10_000

    def with_document(self, document: Mapping[str, Any], where: str) -> NodeSettings:
        """These settings with a mapping's on top; its keys have dashes.

        Raises:
            ArchiveError: A value is not a whole number, or out of range.
        """
        changes: dict[str, int] = {}
        for spec in fields(self):
            key = spec.name.replace("_", "-")
            value = document.get(key)
            if value is None:
                continue
            low = 0 if spec.name == "max_batch_delay" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ArchiveError(f"{where}: {key} is {value!r}; use a whole number from {low} up")
            changes[spec.name] = value
        changed = replace(self, **changes)
        if changed.max_workers < changed.min_workers:
            changed = replace(changed, max_workers=changed.min_workers)
        return changed


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One step of a workflow.

    Attributes:
        name: Its name in the graph.
        url: The archive of its model; None when it is a function of the handler file.
        settings: How it is run.
        parents: Whose answers it gets; none for the first node.
    """

    name: str
    url: str | None
    settings: NodeSettings
    parents: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkflowSpec:
    """A workflow's nodes, each after its parents.

    Attributes:
        nodes: In an order in which they can run.
        leaves: Whose answers are the workflow's, in the order of the graph.
        defaults: What nodes run with unless they say otherwise.
        dag: The graph as it was written: children by node.
    """

    nodes: tuple[Node, ...]
    leaves: tuple[str, ...]
    defaults: NodeSettings
    dag: Mapping[str, tuple[str, ...]]

    @classmethod
    def from_yaml(cls, text: bytes, *, where: str) -> WorkflowSpec:
        """Read a specification.

        Raises:
            ArchiveError: It is not one; the message says where it goes wrong.
        """
        try:
            document = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ArchiveError(f"{where} is not YAML: {error}") from error
        if not isinstance(document, dict):
            raise ArchiveError(f"{where} has no `models` and no `dag`; write both")
        models = document.get("models") or {}
        if not isinstance(models, dict):
            raise ArchiveError(f"{where}: `models` is {type(models).__name__}; write `name: value`")
        defaults = NodeSettings().with_document(models, where)
        dag = _dag(document.get("dag"), models, where)
        order = _order(dag, where)
        parents: dict[str, list[str]] = {name: [] for name in order}
        for name, children in dag.items():
            for child in children:
                parents[child].append(name)
        nodes = [
            _node(name, models.get(name), defaults, tuple(parents[name]), where) for name in order
        ]
        return cls(
            nodes=tuple(nodes),
            leaves=tuple(name for name in order if not dag.get(name)),
            defaults=defaults,
            dag=dag,
        )


def _node(
    name: str, model: object, defaults: NodeSettings, parents: tuple[str, ...], where: str
) -> Node:
    if model is None:
        return Node(name=name, url=None, settings=defaults, parents=parents)
    if not isinstance(model, dict) or not isinstance(model.get("url"), str):
        raise ArchiveError(f"{where}: model {name!r} has no url; name its archive")
    settings = defaults.with_document(model, f"{where}: model {name!r}")
    return Node(name=name, url=model["url"], settings=settings, parents=parents)


def _dag(value: object, models: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    """Children by node; a workflow of a single model needs no graph."""
    if value is None:
        names = [name for name, model in models.items() if isinstance(model, dict)]
        if len(names) != 1:
            raise ArchiveError(f"{where} has no `dag`; say which node comes after which")
        return {names[0]: ()}
    if not isinstance(value, dict) or not value:
        raise ArchiveError(f"{where}: `dag` is not a mapping; write `node: [next, ...]`")
    dag: dict[str, tuple[str, ...]] = {}
    for name, children in value.items():
        listed = children if isinstance(children, list) else [children]
        for each in (name, *listed):
            if not isinstance(each, str) or not _NAME.fullmatch(each):
                raise ArchiveError(f"{where}: {each!r} is no name of a node")
        if len(set(listed)) != len(listed):
            raise ArchiveError(f"{where}: node {name!r} names a child twice")
        dag[name] = tuple(listed)
    return dag


def _order(dag: Mapping[str, tuple[str, ...]], where: str) -> list[str]:
    """All nodes, each after its parents; the texts are TorchServe's."""
    num_parents: dict[str, int] = dict.fromkeys(dag, 0)
    for name, children in dag.items():
        for child in children:
            if child == name:
                raise ArchiveError(f"{where}: Self loop exception: node {name!r} follows itself")
            num_parents[child] = num_parents.get(child, 0) + 1
    starts = [name for name, count in num_parents.items() if count == 0]
    if num_parents and not starts:
        raise ArchiveError(f"{where}: loop exception: every node follows another")
    if len(starts) != 1:
        raise ArchiveError(
            f"{where}: DAG should have only one start node; it has {', '.join(starts)}"
        )
    order: list[str] = []
    while starts:
        name = starts.pop(0)
        order.append(name)
        for child in dag.get(name, ()):
            num_parents[child] -= 1
            if num_parents[child] == 0:
                starts.append(child)
    if len(order) != len(num_parents):
        around = ", ".join(sorted(set(num_parents) - set(order)))
        raise ArchiveError(f"{where}: loop exception: {around} follow each other")
    return order
