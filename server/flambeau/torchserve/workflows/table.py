"""Which workflows there are, and their coming and going."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from flambeau.errors import BadParameter, Conflict, LoadFailed, WorkflowNotFound
from flambeau.manifest import Manifest
from flambeau.model_settings import ModelSettings
from flambeau.model_version import ModelVersion, Package
from flambeau.packages import PackageLoader
from flambeau.registry import Registration, Registry
from flambeau.torchserve.workflows.run import model_of
from flambeau.torchserve.workflows.spec import Node, WorkflowSpec
from flambeau.torchserve.workflows.war import War, WarStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workflow:
    """A registered workflow.

    Attributes:
        name: What it is called.
        url: The archive as the registration named it.
        war: Its content.
    """

    name: str
    url: str
    war: War

    @property
    def spec(self) -> WorkflowSpec:
        return self.war.spec


class WorkflowTable:
    """Owner of the workflows of one server; their nodes are models in its registry."""

    def __init__(self, registry: Registry, packages: PackageLoader, wars: WarStore) -> None:
        # for the life of the server
        self._registry = registry
        self._packages = packages
        self._wars = wars
        # by name; None while one is being registered
        self._workflows: dict[str, Workflow | None] = {}

    def names(self) -> list[str]:
        """Registered workflows, sorted."""
        return sorted(name for name, found in self._workflows.items() if found is not None)

    def resolve(self, name: str) -> Workflow:
        """A workflow by name.

        Raises:
            WorkflowNotFound: There is none.
        """
        found = self._workflows.get(name)
        if found is None:
            raise WorkflowNotFound(f"Workflow not found: {name}")
        return found

    async def register(
        self,
        url: str,
        *,
        name: str | None,
        response_timeout_s: float | None,
        startup_timeout_s: float | None,
        s3_sse_kms: bool,
        sha256: str | None = None,
    ) -> Workflow:
        """Open an archive and start all of its nodes; all of them become ready, or none stays.

        Raises:
            ModelNotFound, ArchiveError: The archive is missing or unusable.
            BadParameter: Neither the call nor the archive gives a name.
            Conflict: There is a workflow of this name.
            LoadFailed: A node could not be started; the message names it.
        """
        war = await asyncio.to_thread(self._wars.open, url, s3_sse_kms=s3_sse_kms, sha256=sha256)
        timeouts = _Timeouts(response_timeout_s, startup_timeout_s)
        try:
            workflow = self._enter(url, war, name or war.name)
            await self._start(workflow, timeouts)
        except BaseException:
            await asyncio.to_thread(self._wars.discard, war)
            raise
        self._workflows[workflow.name] = workflow
        _log.info("workflow registered", extra={"workflow": workflow.name})
        return workflow

    def _enter(self, url: str, war: War, name: str | None) -> Workflow:
        """Keep the name for a workflow that is not ready yet."""
        if name is None:
            raise BadParameter("Workflow name is not defined; give workflow_name")
        if name in self._workflows:
            raise Conflict(f"Workflow {name} is already registered.")
        self._workflows[name] = None
        return Workflow(name=name, url=url, war=war)

    async def unregister(self, name: str) -> None:
        """Remove a workflow with all of its nodes, each drained first.

        Raises:
            WorkflowNotFound: There is none.
        """
        workflow = self.resolve(name)
        del self._workflows[name]
        await self._remove(workflow)
        await asyncio.to_thread(self._wars.discard, workflow.war)

    async def _start(self, workflow: Workflow, timeouts: _Timeouts) -> None:
        """Start all nodes, or leave none."""
        starting = [self._start_node(workflow, node, timeouts) for node in workflow.spec.nodes]
        outcomes = await asyncio.gather(*starting, return_exceptions=True)
        failures = [
            f"{node.name}: {outcome}"
            for node, outcome in zip(workflow.spec.nodes, outcomes, strict=True)
            if isinstance(outcome, BaseException)
        ]
        if failures:
            del self._workflows[workflow.name]
            await self._remove(workflow)
            raise LoadFailed(
                f"Workflow {workflow.name} has failed to register. "
                f"Failures: [{', '.join(failures)}]"
            )

    async def _start_node(self, workflow: Workflow, node: Node, timeouts: _Timeouts) -> None:
        version = await self._register(workflow.name, workflow.war, node, timeouts)
        await self._registry.wait_loaded(version)

    async def _register(
        self, workflow: str, war: War, node: Node, timeouts: _Timeouts
    ) -> ModelVersion:
        model = model_of(workflow, node.name)
        if node.url is not None:
            package, settings = await self._packages.load(node.url, model=model)
        else:
            directory = await asyncio.to_thread(
                self._wars.function_package, war, node.name, model=model
            )
            manifest = Manifest(model_name=model, handler=f"{war.handler}:{node.name}")
            package = Package(url=node.name, digest="", model_dir=directory, manifest=manifest)
            settings = ModelSettings()
        wanted = replace(
            timeouts.on(settings),
            min_workers=node.settings.min_workers,
            max_workers=node.settings.max_workers,
            batch_size=node.settings.batch_size,
            max_batch_delay_ms=node.settings.max_batch_delay,
        )
        package = replace(package, is_part=True)
        return self._registry.register(Registration(package=package, settings=wanted, model=model))

    async def _remove(self, workflow: Workflow) -> None:
        """Remove the nodes that are there."""
        models = [model_of(workflow.name, node.name) for node in workflow.spec.nodes]
        await asyncio.gather(*map(self._registry.unregister, models), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Timeouts:
    """Seconds that a registration gives all nodes; None leaves a node's own."""

    response_s: float | None
    startup_s: float | None

    def on(self, settings: ModelSettings) -> ModelSettings:
        return replace(
            settings,
            response_timeout_s=self.response_s or settings.response_timeout_s,
            startup_timeout_s=self.startup_s or settings.startup_timeout_s,
        )
