"""Workflows over HTTP: `/workflows` on the management listener, `/wfpredict` for inference."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response

from flambeau.admission import handler_headers
from flambeau.allowed_hosts import AllowedHosts
from flambeau.api.auth import InferenceRoute, ManagementRoute
from flambeau.api.body import BodyLimit, read_body, split_inputs
from flambeau.api.management import arguments_of
from flambeau.api.openapi import PARAMETERS
from flambeau.api.parameters import Parameters
from flambeau.api.responses import METHOD_TEXT, PrettyJSON, status_message
from flambeau.audience import Audience
from flambeau.downloads import Downloads
from flambeau.errors import BadParameter, MethodNotAllowed
from flambeau.messages import InferenceRequest
from flambeau.services import ServerParts, Service
from flambeau.torchserve.workflows.run import run_workflow
from flambeau.torchserve.workflows.table import Workflow, WorkflowTable
from flambeau.torchserve.workflows.war import WarStore

_METHODS = ["GET", "PUT", "PATCH", "DELETE"]  # TorchServe takes any
_PAGE = 100


class Workflows(Service):
    """The workflows of one server."""

    def __init__(self, parts: ServerParts) -> None:
        config = parts.config
        directory = config.workflow_store or config.model_store
        downloads = Downloads(
            directory,
            allowed_urls=config.allowed_urls,
            allowed_hosts=AllowedHosts(config.allowed_hosts, private=config.private_hosts),
            require_sha256=config.require_sha256,
        )
        wars = WarStore(directory, downloads=downloads, scratch=parts.packages.store)
        # for the life of the server
        self._parts = parts
        self._table = WorkflowTable(parts.registry, parts.packages, wars)

    def routers(self) -> Mapping[Audience, APIRouter]:
        management = APIRouter(route_class=ManagementRoute)
        one = "/workflows/{workflow_name}"
        for method, path, endpoint, operation_id in (
            ("POST", "/workflows", self.register, "registerWorkflow"),
            ("GET", "/workflows", self.list_workflows, "listWorkflows"),
            ("GET", one, self.describe, "describeWorkflow"),
            ("DELETE", one, self.unregister, "unregisterWorkflow"),
        ):
            management.add_api_route(
                path,
                endpoint,
                methods=[method],
                operation_id=operation_id,
                openapi_extra={"parameters": PARAMETERS.get(operation_id, [])},
            )
        inference = APIRouter(route_class=InferenceRoute)
        path = "/wfpredict/{workflow_name}"
        inference.add_api_route(path, self.predict, methods=["POST"], operation_id="wfpredict")
        inference.add_api_route(path, self.predict, methods=_METHODS, include_in_schema=False)
        return {Audience.MANAGEMENT: management, Audience.INFERENCE: inference}

    async def register(self, request: Request) -> Response:
        """Register a workflow archive, with all of its models."""
        parameters = await arguments_of(request)
        self._check_model_api()
        url = parameters.text("url")
        if url is None:
            raise BadParameter("Parameter url is required.")
        workflow = await self._table.register(
            url,
            name=parameters.text("workflow_name"),
            response_timeout_s=_seconds(parameters, "response_timeout"),
            startup_timeout_s=_seconds(parameters, "startup_timeout"),
            s3_sse_kms=parameters.flag("s3_sse_kms", default=False),
            sha256=parameters.text("sha256") or None,
        )
        return status_message(
            f"Workflow {workflow.name} has been registered and scaled successfully."
        )

    async def list_workflows(self, request: Request) -> Response:
        """Names and archives, in pages."""
        parameters = Parameters(dict(request.query_params))
        limit = parameters.number("limit", _PAGE)
        limit = limit if 0 < limit <= _PAGE else _PAGE
        start = max(0, parameters.number("next_page_token", 0))
        names = self._table.names()
        page = [
            {"workflowName": name, "workflowUrl": self._table.resolve(name).url}
            for name in names[start : start + limit]
        ]
        more = {"nextPageToken": str(start + limit)} if start + limit < len(names) else {}
        return PrettyJSON(more | {"workflows": page})

    async def describe(self, workflow_name: str) -> Response:
        """One workflow, as an array of one."""
        return PrettyJSON([_description(self._table.resolve(workflow_name))])

    async def unregister(self, workflow_name: str) -> Response:
        """Remove a workflow with its models; drained first."""
        self._check_model_api()
        await self._table.unregister(workflow_name)
        return status_message(f'Workflow "{workflow_name}" unregistered')

    async def predict(self, workflow_name: str, request: Request) -> Response:
        """Answer one request with a workflow."""
        workflow = self._table.resolve(workflow_name)  # refused before its body is read
        body = await read_body(request, BodyLimit(self._parts.config.max_request_bytes))
        client = (
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw
        )
        asked = InferenceRequest(
            request_id=request.state.request_id,
            headers=handler_headers(client),
            inputs=split_inputs(body, content_type=request.headers.get("content-type")),
        )
        answer = await run_workflow(
            workflow.name, workflow.spec, asked, registry=self._parts.registry
        )
        return Response(answer, media_type="application/json")

    def _check_model_api(self) -> None:
        if not self._parts.config.enable_model_api:
            raise MethodNotAllowed(METHOD_TEXT)


def make_workflows(parts: ServerParts) -> Service:
    """Workflows for a server."""
    return Workflows(parts)


def _description(workflow: Workflow) -> dict[str, object]:
    defaults = workflow.spec.defaults
    return {
        "workflowName": workflow.name,
        "workflowUrl": workflow.url,
        "minWorkers": defaults.min_workers,
        "maxWorkers": defaults.max_workers,
        "batchSize": defaults.batch_size,
        "maxBatchDelay": defaults.max_batch_delay,
        "workflowDag": json.dumps({name: list(to) for name, to in workflow.spec.dag.items()}),
    }


def _seconds(parameters: Parameters, name: str) -> float | None:
    value = parameters.number(name, 0)
    return float(value) if value > 0 else None
