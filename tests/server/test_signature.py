from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.errors import ArchiveError
from flambeau.signature import Signature, TensorSpec

SIZES = st.lists(st.none() | st.integers(1, 1 << 40), max_size=5)
SPECS = st.builds(
    TensorSpec,
    name=st.text(min_size=1),
    dtype=st.sampled_from(["float32", "int64", "uint8", "bool"]),
    shape=SIZES.map(lambda sizes: (None, *sizes)),
)
SOME_SPECS = st.lists(SPECS, min_size=1, max_size=4).map(tuple)


@given(st.builds(Signature, inputs=SOME_SPECS, outputs=SOME_SPECS))
def test_a_written_signature_is_read_back(signature: Signature) -> None:
    assert Signature.from_json(signature.to_json()) == signature


def test_a_samples_shape_leaves_out_the_batch() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(None, 1, 32, None))
    assert spec.sample_shape == (1, 32, None)


SPEC = {"name": "x", "dtype": "float32", "shape": [None, 3]}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"inputs": [SPEC]},
        {"inputs": [], "outputs": [SPEC]},
        {"inputs": [SPEC], "outputs": []},
        {"inputs": "x", "outputs": [SPEC]},
        {"inputs": [SPEC], "outputs": [{"name": "x", "dtype": "float32"}]},
        {"inputs": [SPEC], "outputs": [{**SPEC, "shape": []}]},
        {"inputs": [SPEC], "outputs": [{**SPEC, "shape": [1, 3]}]},
        {"inputs": [SPEC], "outputs": [{**SPEC, "shape": [None, -1]}]},
        {"inputs": [SPEC], "outputs": [{**SPEC, "shape": [None, 2.5]}]},
        {"inputs": [SPEC], "outputs": [{**SPEC, "shape": [None, True]}]},
        {"inputs": [SPEC], "outputs": [{**SPEC, "shape": "abc"}]},
        {"inputs": [SPEC], "outputs": [{**SPEC, "name": 3}]},
        {"inputs": [SPEC], "outputs": [{**SPEC, "dtype": None}]},
    ],
)
def test_what_is_no_signature_is_refused(document: object) -> None:
    with pytest.raises(ArchiveError, match=r"MAR-INF/signature\.json is not a signature"):
        Signature.from_json(json.dumps(document))


@given(st.binary() | st.text())
def test_any_bytes_are_a_signature_or_refused(text: bytes | str) -> None:
    with pytest.raises(ArchiveError, match="export the model again"):
        Signature.from_json(text)
