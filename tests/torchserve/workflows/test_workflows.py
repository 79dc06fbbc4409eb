"""Workflows on a real server: archives made as TorchServe's are, requests over HTTP."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from flambeau.testing import make_archive
from flambeau.torchserve.workflow_archiver import archive_workflow
from tests.integration.server import Server, running_server

pytestmark = pytest.mark.slow

TIMES = """
    def handle(data, context):
        if data is None:
            return
        return [{factor} * int(bytes(row["body"])) for row in data]
"""
FUNCTIONS = """
def begin(data, context):
    if data is None:
        return
    row = data[0]
    text = bytes(row.get("number") or row["body"])
    if text == b"bad":
        raise ValueError("not a number")
    return [str(int(text) + 1)]

def join(data, context):
    if data is None:
        return
    return [{name: int(bytes(value)) for name, value in data[0].items()}]

def show(data, context):
    if data is None:
        return
    return [sorted(data[0])]
"""
DIAMOND = """
models:
    timeout-ms: 60000
    twice: {url: twice-1.0.mar}
    thrice: {url: thrice-1.0.mar}
dag:
    begin: [twice, thrice]
    twice: [join]
    thrice: [join]
"""
FORK = """
models:
    twice: {url: twice-1.0.mar}
dag:
    begin: [twice, show]
"""


def make_war(directory: Path, name: str, spec: str, *, handler: str | None = FUNCTIONS) -> str:
    parts = directory / f"parts of {name}"
    parts.mkdir()
    (parts / "spec.yaml").write_text(spec)
    (parts / "functions.py").write_text(handler or "")
    archive_workflow(
        name,
        str(parts / "spec.yaml"),
        handler=str(parts / "functions.py") if handler is not None else None,
        export_path=str(directory),
    )
    return f"{name}.war"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    store, workflows = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("workflows")
    for name, factor in (("twice", 2), ("thrice", 3)):
        make_archive(store, name=name, handler=TIMES.format(factor=factor))
    make_war(workflows, "diamond", DIAMOND)
    make_war(workflows, "fork", FORK)
    make_war(workflows, "lost", "models: {m: {url: no.mar}}", handler=None)
    make_war(workflows, "looping", "dag: {begin: [join], join: [begin]}")
    make_war(workflows, "nameless", "dag: {begin: [nobody]}", handler=None)
    with running_server(store, "--workflow-store", str(workflows)) as running:
        yield running


@pytest.fixture(scope="module")
def diamond(server: Server) -> Server:
    response = register(server, "diamond.war")
    assert response.status_code == 200, response.text
    assert response.json() == {
        "status": "Workflow diamond has been registered and scaled successfully."
    }
    return server


def register(server: Server, url: str, **parameters: str) -> httpx.Response:
    return server.management.post("/workflows", params={"url": url, **parameters})


def test_a_request_runs_through_all_nodes(diamond: Server) -> None:
    response = diamond.inference.post("/wfpredict/diamond", content=b"4")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"twice": 10, "thrice": 15}
    form = diamond.inference.post("/wfpredict/diamond", files={"number": b"1"})
    assert form.json() == {"twice": 4, "thrice": 6}


def test_a_node_that_fails_fails_its_request_and_no_other(diamond: Server) -> None:
    response = diamond.inference.post("/wfpredict/diamond", content=b"bad")
    assert response.status_code == 500
    assert response.json()["type"] == "InternalServerException"
    assert "node begin failed 1 times" in response.json()["message"]
    assert diamond.inference.post("/wfpredict/diamond", content=b"0").json()["twice"] == 2


def test_a_workflow_is_described_listed_and_its_nodes_are_not(diamond: Server) -> None:
    (described,) = diamond.management.get("/workflows/diamond").json()
    assert described == {
        "workflowName": "diamond",
        "workflowUrl": "diamond.war",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 50,
        "workflowDag": '{"begin": ["twice", "thrice"], "twice": ["join"], "thrice": ["join"]}',
    }
    assert diamond.management.get("/workflows").json() == {
        "workflows": [{"workflowName": "diamond", "workflowUrl": "diamond.war"}]
    }
    assert diamond.management.get("/models").json() == {"models": []}
    again = register(diamond, "diamond.war")
    assert again.status_code == 409
    assert again.json()["message"] == "Workflow diamond is already registered."


def test_several_leaves_are_answered_by_name_until_the_workflow_is_removed(server: Server) -> None:
    assert register(server, "fork.war", workflow_name="other").status_code == 200
    answer = server.inference.post("/wfpredict/other", content=b"4")
    assert answer.json() == {"twice": 10, "show": ["body"]}
    removed = server.management.delete("/workflows/other")
    assert removed.json() == {"status": 'Workflow "other" unregistered'}
    for method, client, path in (
        ("POST", server.inference, "/wfpredict/other"),
        ("GET", server.management, "/workflows/other"),
        ("DELETE", server.management, "/workflows/other"),
    ):
        gone = client.request(method, path)
        assert gone.status_code == 404
        assert gone.json() == {
            "code": 404,
            "type": "WorkflowNotFoundException",
            "message": "Workflow not found: other",
        }


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("lost.war", 500, "Workflow lost has failed to register. Failures: [m: Model not found"),
        ("looping.war", 400, "loop exception"),
        ("nameless.war", 500, "node 'begin' is neither a model nor a function"),
        ("absent.war", 404, "Workflow archive not found"),
        ("../x.war", 404, "Relative path is not allowed in url: ../x.war"),
        ("http://here/x.war", 404, "does not match any allowed URL"),
    ],
)
def test_what_cannot_be_registered_leaves_nothing(
    server: Server, url: str, status: int, message: str
) -> None:
    response = register(server, url)
    assert response.status_code == status
    assert message in response.json()["message"]
    assert url.removesuffix(".war") not in server.management.get("/workflows").text
