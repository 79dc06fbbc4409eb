"""Service envelopes: what the handler gets, and which request gets what of its answer."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flambeau.context import Context
from flambeau.errors import ArchiveError, HandlerFailed, InvalidInput
from flambeau.messages import InferenceRequest, Input
from flambeau.torchserve.envelopes import ENVELOPES, envelope_class
from flambeau.torchserve.envelopes.base import BaseEnvelope

Handle = Callable[[Any, Context], Any]


def context(*headers: dict[str, str]) -> Context:
    """A context within a batch of requests with these headers."""
    model = {"modelName": "mine", "modelVersion": "2.0"}
    made = Context("mine", "/", {"model": model}, 8, None, "0.1")
    made.begin_batch(
        [
            InferenceRequest(
                request_id=f"id-{idx}",
                headers=list(each.items()),
                inputs=[Input("body", "application/json", memoryview(b""))],
            )
            for idx, each in enumerate(headers)
        ]
    )
    return made


def bodies(*documents: object) -> list[dict[str, object]]:
    return [{"body": document} for document in documents]


def answer(  # what it is depends on the envelope
    name: str, handle: Handle, rows: Sequence[object], given: Context | None = None
) -> Any:  # noqa: ANN401  # as above
    return envelope_class(name)(handle).handle(rows, given or context(*({} for _ in rows)))


def always(outputs: object) -> Handle:
    """A handler that answers so, whatever it gets."""

    def handle(*_: object) -> object:
        return outputs

    return handle


def double(rows: list[float], _: Context) -> list[float]:
    return [row * 2 for row in rows]


def test_body_hands_over_values_alone() -> None:
    rows = [{"data": 1, "body": 2}, {"body": 3}, {"other": 4}]
    assert answer("body", lambda rows, _: rows, rows) == [1, 3, None]


@pytest.mark.parametrize("name", ["json", "kserve"])
def test_each_request_gets_what_came_of_its_own_instances(name: str) -> None:
    rows = bodies({"instances": [1, 2]}, {"instances": []}, {"instances": [3]})
    answers = answer(name, double, rows)
    documents = [json.loads(each) if isinstance(each, str) else each for each in answers]
    assert documents == [{"predictions": [2, 4]}, {"predictions": []}, {"predictions": [6]}]


@pytest.mark.parametrize("name", ["json", "kserve"])
@pytest.mark.parametrize(
    "row",
    [
        {"body": {"instances": [4]}},
        {"data": {"instances": [4]}},
        {"instances": [4]},
        {"body": b'{"instances": [4]}'},
        {"body": bytearray(b'{"instances": [4]}')},
        {"data": '{"instances": [4]}'},
    ],
    ids=["body", "data", "fields", "bytes", "bytearray", "text"],
)
def test_instances_are_found_wherever_the_client_put_them(name: str, row: object) -> None:
    (found,) = answer(name, double, [row])
    assert (json.loads(found) if isinstance(found, str) else found) == {"predictions": [8]}


def test_json_answers_are_text_as_torchserve_writes_it() -> None:
    assert answer("json", double, bodies({"instances": [1]})) == ['{"predictions": [2]}']


def test_json_answers_say_that_they_are_json() -> None:
    given = context({}, {})
    rows = bodies({"instances": [1]}, {"instances": [1]})

    def handle(rows: list[float], inner: Context) -> list[float]:
        inner.set_response_content_type(1, "text/plain")
        return rows

    answer("json", handle, rows, given)
    assert given.get_response_content_type(0) == "application/json"
    assert given.get_response_content_type(1) == "text/plain"


def test_json_has_null_for_numbers_that_it_cannot_hold() -> None:
    answers = answer("json", always([math.nan]), bodies({"instances": [1]}))
    assert answers == ['{"predictions": [null]}']


def test_json_refuses_outputs_that_have_no_json() -> None:
    with pytest.raises(HandlerFailed, match="Unsupported model output data type"):
        answer("json", always([object()]), bodies({"instances": [1]}))


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        ({"b64": "YQ=="}, b"a"),
        ({"image": {"b64": "YQ=="}, "size": 3}, {"image": b"a", "size": 3}),
        ({"b64": "YQ==", "size": 3}, {"b64": "YQ==", "size": 3}),
        ({"b64": "YW\nJj"}, b"abc"),
        ([{"b64": "YQ=="}], [{"b64": "YQ=="}]),
    ],
    ids=["whole", "field", "not alone", "wrapped", "nested"],
)
def test_json_decodes_base64(instance: object, expected: object) -> None:
    seen: list[object] = []

    def handle(rows: list[object], _: Context) -> list[int]:
        seen.extend(rows)
        return [0] * len(rows)

    answer("json", handle, bodies({"instances": ["first", instance]}))
    assert seen == ["first", expected]


@pytest.mark.parametrize(
    ("name", "document", "message"),
    [
        ("json", {"inputs": [1]}, r"has 'inputs'; send \{\"instances\""),
        ("json", {"instances": [{"b64": "?"}]}, "not base64"),
        ("json", b"{", "not JSON"),
        ("json", [1], "is a list; send a JSON object"),
        ("kserve", {"instances": 7}, r"send \{\"instances\""),
        ("kservev2", {"instances": [1]}, r"has 'instances'; send \{\"inputs\""),
        ("kservev2", {"inputs": [{"name": "x"}]}, "needs a name, a datatype, a shape and data"),
    ],
)
def test_a_malformed_request_fails_alone(name: str, document: object, message: str) -> None:
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}
    good = {"instances": [1], "inputs": [tensor]}
    bad, fine = answer(name, lambda rows, _: [5] * len(rows), bodies(document, good))
    assert isinstance(bad, InvalidInput)
    with pytest.raises(InvalidInput, match=message):
        raise bad
    assert not isinstance(fine, InvalidInput)


def test_a_batch_of_malformed_requests_does_not_reach_the_handler() -> None:
    def handle(rows: object, _: Context) -> None:
        pytest.fail(f"called with {rows!r}")

    assert isinstance(answer("kserve", handle, bodies({}))[0], InvalidInput)


def test_a_request_fails_when_one_of_its_instances_does() -> None:
    def handle(rows: list[int], _: Context) -> list[object]:
        return [InvalidInput("odd") if row % 2 else row for row in rows]

    odd, even = answer("kserve", handle, bodies({"instances": [2, 3]}, {"instances": [4]}))
    assert isinstance(odd, InvalidInput)
    assert even == {"predictions": [4]}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [([1], "number of batch response mismatched"), ({}, "Invalid model predict output")],
)
def test_outputs_that_do_not_fit_the_batch_are_refused(outputs: object, message: str) -> None:
    rows = bodies({"instances": [1]}, {"instances": [2]})
    with pytest.raises(HandlerFailed, match=message):
        answer("kserve", always(outputs), rows)


def test_a_single_request_gets_whatever_the_handler_returned() -> None:
    rows = bodies({"instances": [1, 2]})
    assert answer("kserve", always(["both"]), rows) == [{"predictions": ["both"]}]


def test_nothing_stays_nothing() -> None:
    assert answer("kserve", always(None), bodies({"instances": [1]})) is None


def test_an_explanation_is_answered_under_its_name() -> None:
    rows = bodies({"instances": [1]})
    answers = answer("kserve", double, rows, context({"explain": "True"}))
    assert answers == [{"explanations": [2]}]


def test_a_description_is_left_as_it_is() -> None:
    answers = answer("kserve", lambda rows, _: [rows], [{}], context({"describe": "True"}))
    assert answers == [[{}]]


def test_the_call_at_loading_is_left_as_it_is() -> None:
    assert answer("json", lambda rows, _: rows, [], context()) == []


def test_the_context_speaks_of_instances() -> None:
    given = context({"Who": "first"}, {"Who": "second"})
    seen: list[tuple[object, object]] = []

    def handle(rows: list[int], inner: Context) -> list[int]:
        for idx, _ in enumerate(rows):
            seen.append((inner.get_request_header(idx, "Who"), inner.get_request_id(idx)))
        inner.set_response_status(418, "", len(rows) - 1)
        return rows

    answer("kserve", handle, bodies({"instances": [1, 2]}, {"instances": [3]}), given)
    assert seen == [("first", "id-0"), ("first", "id-0"), ("second", "id-1")]
    assert [given.get_response_status(idx)[0] for idx in (0, 1)] == [200, 418]
    assert given.request_ids == {0: "id-0", 1: "id-1"}


def test_parts_of_answers_go_through_the_envelope() -> None:
    given = context({}, {})
    sent: list[tuple[list[object], int]] = []
    given.intermediate_sink = lambda parts: sent.append((parts, len(given.request_processor)))

    def handle(rows: list[int], inner: Context) -> list[int]:
        inner.send_intermediate([row * 10 for row in rows])
        return rows

    answer("kserve", handle, bodies({"instances": [1, 2]}, {"instances": [3]}), given)
    assert sent == [([{"predictions": [10, 20]}, {"predictions": [30]}], 2)]


def test_a_coroutine_handler_answers_batches_at_a_time() -> None:
    async def both() -> list[Any]:
        arrived = asyncio.Event()

        async def handle(rows: list[int], _: Context) -> list[int]:
            if rows == [1]:
                await arrived.wait()
            arrived.set()
            return rows

        envelope = envelope_class("kserve")(handle)
        calls = [
            envelope.handle(bodies({"instances": rows}), context({})) for rows in ([1], [2, 3])
        ]
        return list(await asyncio.gather(*calls))

    assert asyncio.run(both()) == [[{"predictions": [1]}], [{"predictions": [2, 3]}]]


def tensor(name: str, data: list[Any], *, kind: str = "INT64", shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape, "data": data}


def test_kserve_v2_gives_each_request_its_own_outputs() -> None:
    given = context({}, {})
    rows = bodies(
        {"id": "mine", "inputs": [tensor("a", [1, 2, 3, 4], shape=[2, 2])]},
        {"inputs": [tensor("b", [5], shape=[1]), tensor("c", [6], shape=[1])]},
    )

    def handle(rows: list[Any], inner: Context) -> list[Any]:
        assert vars(inner)["input_names"] == ["a", "b", "c"]
        assert rows[0]["data"] == [[1, 2], [3, 4]]
        return [row["data"] for row in rows]

    first, second = answer("kservev2", handle, rows, given)
    assert first == {
        "id": "mine",
        "model_name": "mine",
        "model_version": "2.0",
        "outputs": [tensor("a", [1, 2, 3, 4], shape=[4])],
    }
    assert second["id"] == "id-1"
    assert second["outputs"] == [tensor("b", [5], shape=[1]), tensor("c", [6], shape=[1])]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (tensor("x", [1, 2], kind="FP32", shape=[2]), [1.0, 2.0]),
        (tensor("x", [[1], [2]], shape=[2]), [1, 2]),
        (tensor("x", [True], kind="BOOL", shape=[1]), [True]),
        (tensor("x", ["text", "more"], kind="BYTES", shape=[2]), "text"),
    ],
    ids=["integers for floats", "nested", "bool", "bytes"],
)
def test_kserve_v2_nests_data_as_the_shape_says(given: dict[str, Any], expected: object) -> None:
    seen: list[Any] = []

    def handle(rows: list[Any], _: Context) -> list[int]:
        seen.extend(rows)
        return [0]

    answer("kservev2", handle, bodies({"inputs": [given]}))
    assert seen == [{**given, "data": expected}]
    assert str(seen[0]["data"]) == str(expected)  # 1.0 is not 1


@pytest.mark.parametrize(
    ("output", "kind", "data"),
    [
        ([0.5, 1.5], "FP64", [0.5, 1.5]),
        ([[1], [2]], "INT64", [1, 2]),
        (True, "BOOL", [True]),
        ("text", "BYTES", ["text"]),
        ({"cat": 0.5}, "BYTES", [{"cat": 0.5}]),
    ],
)
def test_kserve_v2_says_what_outputs_are(output: object, kind: str, data: list[Any]) -> None:
    rows = bodies({"inputs": [tensor("x", [1], shape=[1])]})
    (document,) = answer("kservev2", always([output]), rows)
    assert document["outputs"] == [tensor("x", data, kind=kind, shape=[len(data)])]


@pytest.mark.parametrize("given", [tensor("x", [1], shape=[2]), tensor("x", [[1], 2], shape=[2])])
def test_kserve_v2_refuses_data_of_another_shape(given: dict[str, Any]) -> None:
    (error,) = answer("kservev2", double, bodies({"inputs": [given]}))
    with pytest.raises(InvalidInput, match=r"input 'x' is no INT64 of shape \[2\]"):
        raise error


OWN = """
from flambeau.torchserve.envelopes.base import BaseEnvelope

class Upper(BaseEnvelope):
    def parse_input(self, data):
        return [row["body"].upper() for row in data]

    def format_output(self, data):
        return [f"<{item}>" for item in data]
"""


@pytest.mark.usefixtures("imports_are_undone")
def test_an_archive_may_bring_an_envelope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "upper.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert answer("upper", lambda rows, _: rows, bodies("a", "b")) == ["<A>", "<B>"]


def test_torchserves_dotted_names_are_understood() -> None:
    for name, found in ENVELOPES.items():
        assert envelope_class(f"ts.torch_handler.request_envelope.{name}") is found


def test_an_unknown_envelope_is_refused() -> None:
    with pytest.raises(ArchiveError, match="'kserv'; use body, json, kserve, kservev2, or"):
        envelope_class("kserv")


def test_base_envelope_asks_for_both_directions() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BaseEnvelope(double)  # type: ignore[abstract]  # that is the point
