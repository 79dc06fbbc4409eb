from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambeau.errors import ArchiveError
from flambeau.manifest import RUNTIMES, Manifest

TEXT = st.none() | st.text(min_size=1)
BASENAME = st.none() | st.from_regex(r"[a-z]{1,8}\.[a-z]{1,4}", fullmatch=True)


@given(
    st.builds(
        Manifest,
        model_name=TEXT,
        model_version=st.text(min_size=1),
        handler=TEXT,
        serialized_file=BASENAME,
        model_file=BASENAME,
        requirements_file=BASENAME,
        config_file=BASENAME,
        runtime=st.sampled_from(RUNTIMES),
        description=TEXT,
        created_on=TEXT,
        archiver_version=TEXT,
    )
)
def test_a_written_manifest_is_read_back(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_what_a_manifest_leaves_out_has_torchserves_defaults() -> None:
    assert Manifest.from_json("{}") == Manifest(model_version="1.0", runtime="python")


def test_unknown_and_legacy_keys_are_ignored() -> None:
    text = json.dumps(
        {
            "modelServerVersion": "1.0",
            "specificationVersion": "1.0",
            "model": {"modelName": "m", "extensions": {}, "sourceVocab": "v.txt", "version": 3},
        }
    )
    assert Manifest.from_json(text) == Manifest(model_name="m")


def test_a_number_is_taken_as_a_version() -> None:
    assert Manifest.from_json('{"model": {"modelVersion": 2.5}}').model_version == "2.5"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is list, not an object"),
        ("[" * 100_000, "is not JSON"),
        ('"text"', "is str, not an object"),
        ('{"model": []}', "key 'model' is list"),
        ('{"model": {"modelName": []}}', "'modelName' is"),
        ('{"model": {"modelVersion": true}}', "'modelVersion' is True"),
        ('{"runtime": "java"}', r"^Runtime is not defined or invalid\.$"),
    ],
)
def test_what_is_no_manifest_is_refused(document: str, says: str) -> None:
    with pytest.raises(ArchiveError, match=says):
        Manifest.from_json(document)


@pytest.mark.parametrize("key", ["serializedFile", "modelFile", "requirementsFile", "configFile"])
@pytest.mark.parametrize("value", ["../x.pt", "/etc/passwd", "a/b.pt", "a\\b.pt", "..", "."])
def test_a_file_outside_the_archives_root_is_refused(key: str, value: str) -> None:
    with pytest.raises(ArchiveError, match="give the bare file name"):
        Manifest.from_json(json.dumps({"model": {key: value}}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["model", "runtime"]), inner),
)


@given(st.binary() | st.text() | JSON.map(json.dumps))
def test_whatever_is_no_manifest_is_refused_as_such(text: bytes | str) -> None:
    with contextlib.suppress(ArchiveError):
        Manifest.from_json(text)
