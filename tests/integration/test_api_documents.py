"""The OpenAPI documents of a running server are true: what they allow is answered as they say.

schemathesis makes requests from the documents, sound ones and unsound ones, the same in each run.
`API_EXAMPLES` says how many of each per operation.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeAlias

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from flambeau.audience import Audience
from tests.integration.archives import service
from tests.integration.server import Server, running_server

Case: TypeAlias = schemathesis.Case[Any]
RecordProperty: TypeAlias = Callable[[str, object], None]

NUM_EXAMPLES = int(os.environ.get("API_EXAMPLES", "6"))
CHECKS = [status_code_conformance, response_schema_conformance, content_type_conformance]
# names that are there, which no document tells
MODELS, VERSIONS = ("echo", "bare", "absent"), ("1.0", "9")
NAMES = {
    "deployModel": ("deployed", "echo"),
    "unregisterModel": ("spare", "absent"),
    "version_unregisterModel": ("spare", "absent"),
}
WORKERS = ("min_worker", "max_worker", "initial_workers")
ASKS_WHETHER_READY = {"ping", "readyz", "v2_ready", "v2_model_ready", "v2_version_ready"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """Serves echo 1.0 with a worker and bare 1.0 without one; spare 1.0 is in the store only."""
    store = tmp_path_factory.mktemp("store")
    archives = {name: service(store, "echo", name=name) for name in ("echo", "bare", "spare")}
    flags = ("--open-inference-protocol",)
    with running_server(store, *flags, models=[archives["echo"].name]) as running:
        assert running.register(archives["bare"], initial_workers=0).status_code == 200
        yield running
        errors = [record for record in running.records() if record["level"] == "ERROR"]
        loggers = {record["logger"] for record in errors}
        assert loggers <= {"flambeau.worker_slot"}  # of handlers that are not there


def operations(document: dict[str, Any]) -> Iterator[Any]:
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok)
        yield found.ok()


def name_of(case: Case) -> str:
    return str(case.operation.definition.raw["operationId"])


def tamed(case: Case, number: int) -> Case:
    """With names that are there, in most cases, and no more workers than a test can bear."""
    operation = name_of(case)
    for parameter, values in (
        ("model_name", NAMES.get(operation, MODELS)),
        ("model_version", VERSIONS),
    ):
        if parameter in case.path_parameters and number % 8:
            case.path_parameters[parameter] = values[number % len(values)]
    num_workers = 0 if case.path_parameters.get("model_name") == "bare" else 1
    for values_given in (case.query, case.body):
        if not isinstance(values_given, dict):
            continue
        for name in WORKERS:
            if re.search(r"\d", str(values_given.get(name, ""))):
                values_given[name] = num_workers
        if "url" in values_given and number % 3:
            values_given |= {"url": "spare-1.0.mar", "initial_workers": 0}
    return case


class Told:
    """What was answered, by operation."""

    def __init__(self) -> None:
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)

    def check(self, case: Case, response: schemathesis.Response) -> None:
        """Count an answer that is as the document says; raises what is wrong with another."""
        case.validate_response(response, checks=CHECKS)
        operation, status = name_of(case), response.status_code
        self.statuses[operation][status] += 1
        assert str(status) in case.operation.definition.raw["responses"], (operation, status)
        if status >= 500:
            is_bare = case.path_parameters.get("model_name") == "bare"
            assert status == 503, (operation, status, response.text)
            assert is_bare or operation in ASKS_WHETHER_READY, (operation, response.text)
        if status >= 400 and operation not in ASKS_WHETHER_READY:
            assert response.json()["code"] == status


def ask(server: Server, audience: Audience, told: Told, *, are_sound: bool) -> None:
    """Send what the document of a listener allows, or what it does not."""
    client = getattr(server, audience.value)
    base_url = str(client.base_url).rstrip("/")
    mode: Any = GenerationMode.POSITIVE if are_sound else GenerationMode.NEGATIVE
    for operation in operations(client.options("/").json()):
        takes_more = bool(operation.query or operation.body)
        if not (are_sound or takes_more):
            continue  # any text may stand in a path
        takes_something = takes_more or bool(operation.path_parameters)

        @settings(
            max_examples=NUM_EXAMPLES if takes_something else 1,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(case=operation.as_strategy(generation_mode=mode), number=st.integers(0, 23))
        def send(case: Case, number: int) -> None:
            if name_of(case) in NAMES:
                spare = server.register(server.store / "spare-1.0.mar", initial_workers=0)
                assert spare.status_code in {200, 409}, spare.text
            told.check(case, tamed(case, number).call(base_url=base_url))

        send()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_operation_answers_as_its_document_says(
    server: Server, record_property: RecordProperty
) -> None:
    told = Told()
    for audience in Audience:
        for are_sound in (True, False):
            ask(server, audience, told, are_sound=are_sound)
    statuses = sum(told.statuses.values(), Counter[int]())
    num_right = sum(count for status, count in statuses.items() if status < 400)
    record_property("case", "C12 OpenAPI documents")
    record_property("sent", statuses.total())
    record_property("R", num_right)
    record_property("E", statuses.total() - num_right)
    record_property("operations", len(told.statuses))
    record_property("meant_503", statuses[503])
    reached = [name for name, found in told.statuses.items() if min(found) < 300]
    assert len(reached) > len(told.statuses) / 2, "most operations were only refused"
    assert server.predict("echo", json={"a": 1}).status_code == 200
