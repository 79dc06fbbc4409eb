from __future__ import annotations

import textwrap

import pytest

from flambeau.errors import ArchiveError
from flambeau.torchserve.workflows.spec import NodeSettings, WorkflowSpec


def read(text: str) -> WorkflowSpec:
    return WorkflowSpec.from_yaml(textwrap.dedent(text).encode(), where="spec.yaml")


def test_a_diamond_runs_parents_first_and_ends_in_its_leaf() -> None:
    spec = read(
        """
        models:
            max-workers: 2
            timeout-ms: 500
            left: {url: left.mar, batch-size: 8}
            right: {url: right.mar}
        dag:
            begin: [left, right]
            left: [join]
            right: [join]
        """
    )
    assert [node.name for node in spec.nodes] == ["begin", "left", "right", "join"]
    assert [node.parents for node in spec.nodes] == [(), ("begin",), ("begin",), ("left", "right")]
    assert [node.url for node in spec.nodes] == [None, "left.mar", "right.mar", None]
    assert spec.leaves == ("join",)
    assert spec.nodes[1].settings == NodeSettings(max_workers=2, timeout_ms=500, batch_size=8)
    assert spec.nodes[2].settings == spec.defaults == NodeSettings(max_workers=2, timeout_ms=500)


def test_a_single_model_needs_no_graph() -> None:
    spec = read("models: {only: {url: only.mar}}")
    assert [(node.name, node.parents) for node in spec.nodes] == [("only", ())]
    assert spec.leaves == ("only",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dag: {a: [a]}", "Self loop exception"),
        ("dag: {a: [b], b: [a]}", "loop exception"),
        ("dag: {a: [b], b: [c], c: [b]}", "loop exception: b, c follow each other"),
        ("dag: {a: [c], b: [c]}", "DAG should have only one start node; it has a, b"),
        ("dag: {a: [b, b]}", "names a child twice"),
        ("dag: {a: [../b]}", "'../b' is no name of a node"),
        ("dag: []", "`dag` is not a mapping"),
        ("models: {a: {}, b: {}}", "has no `dag`"),
        ("{models: {a: {}}, dag: {a: []}}", "model 'a' has no url"),
        ("{models: {max-workers: two}, dag: {a: []}}", "max-workers is 'two'"),
        ("{models: {batch-size: 0}, dag: {a: []}}", "batch-size is 0; use a whole number from 1"),
        ("[1, 2]", "has no `models` and no `dag`"),
        ("{", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=r"spec\.yaml") as caught:
        read(text)
    assert message in str(caught.value)
