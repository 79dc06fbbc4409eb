"""Answering one request with a workflow: every node runs as soon as its parents have answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence

import msgspec

from flambeau.errors import FlambeauError, HandlerFailed, WorkerError
from flambeau.messages import InferenceRequest, Input
from flambeau.registry import Registry
from flambeau.torchserve.workflows.spec import Node, WorkflowSpec


def model_of(workflow: str, node: str) -> str:
    """The name under which a node is served; TorchServe's."""
    return f"{workflow}__{node}"


class WorkflowFailed(WorkerError):  # noqa: N818  # it is one request's fate
    """A node did not answer; the message names it and says why."""


async def run_workflow(
    workflow: str, spec: WorkflowSpec, request: InferenceRequest, *, registry: Registry
) -> bytes:
    """Answer one request.

    Returns:
        The only leaf's answer as it is; of several a JSON object of answers by leaf.

    Raises:
        WorkflowFailed: A node failed as often as it may be tried; the others are cancelled.
    """
    answers: dict[str, asyncio.Task[bytes]] = {}

    async def run(node: Node) -> bytes:
        parents = {parent: await asyncio.shield(answers[parent]) for parent in node.parents}
        inputs = _inputs(parents) if parents else request.inputs
        asked = msgspec.structs.replace(request, inputs=inputs)
        return await _ask(workflow, node, asked, registry=registry)

    for node in spec.nodes:  # each after its parents
        answers[node.name] = asyncio.ensure_future(run(node))
    try:
        await asyncio.gather(*answers.values())
    finally:
        for answer in answers.values():
            answer.cancel()
        await asyncio.wait(answers.values())
    return _answer({leaf: answers[leaf].result() for leaf in spec.leaves})


def _inputs(parents: Mapping[str, bytes]) -> Sequence[Input]:
    """One parent's answer is the body; those of several come under their names."""
    names = list(parents) if len(parents) > 1 else ["body"]
    return [
        Input(name=name, content_type=None, body=memoryview(body))
        for name, body in zip(names, parents.values(), strict=True)
    ]


async def _ask(
    workflow: str, node: Node, request: InferenceRequest, *, registry: Registry
) -> bytes:
    for _ in range(node.settings.retry_attempts - 1):
        with contextlib.suppress(FlambeauError):
            return await _try(workflow, node, request, registry=registry)
    try:
        return await _try(workflow, node, request, registry=registry)
    except FlambeauError as error:
        raise WorkflowFailed(
            f"workflow {workflow}: node {node.name} failed {node.settings.retry_attempts} times "
            f"(retry-attempts): {error}"
        ) from error


async def _try(
    workflow: str, node: Node, request: InferenceRequest, *, registry: Registry
) -> bytes:
    pending = registry.resolve(model_of(workflow, node.name)).submit(request)
    try:
        reply = await asyncio.wait_for(pending.reply, node.settings.timeout_ms / 1000)
    except asyncio.TimeoutError:
        raise WorkflowFailed(f"no answer within timeout-ms {node.settings.timeout_ms}") from None
    finally:
        if not pending.is_over:
            pending.abandon()
    if reply.status >= 400:
        raise HandlerFailed(f"the handler answered with status {reply.status}")
    rest = [bytes(part.body) async for part in pending.rest] if pending.rest is not None else []
    return b"".join([bytes(reply.body), *rest])


def _answer(leaves: Mapping[str, bytes]) -> bytes:
    if len(leaves) == 1:
        return next(iter(leaves.values()))
    return json.dumps({name: _value(body) for name, body in leaves.items()}, indent=2).encode()


def _value(body: bytes) -> object:
    """A leaf's answer in a JSON document: what it says when it is JSON, else its text."""
    try:
        value: object = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
    return value
