from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flambeau.errors import TuningError
from flambeau.parity import Samples, Tolerance
from flambeau.signature import SAMPLES_PATH, SIGNATURE_PATH, Signature, TensorSpec
from flambeau.tuning.sample_requests import requests_of_files, requests_of_samples


def unpacked(root: Path, *inputs: torch.Tensor, names: tuple[str, ...] = ()) -> Path:
    """An unpacked archive with these samples, and a signature if names are given."""
    (root / "MAR-INF").mkdir()
    samples = Samples(inputs=inputs, outputs=inputs[:1], tolerance=Tolerance())
    (root / SAMPLES_PATH).write_bytes(samples.to_safetensors())
    if names:
        specs = tuple(TensorSpec(name=name, dtype="float32", shape=(None, 2)) for name in names)
        signature = Signature(inputs=specs, outputs=specs[:1])
        (root / SIGNATURE_PATH).write_text(signature.to_json())
    return root


NUMBERS_B2 = torch.tensor([[1.0, 2.0], [3.0, 4.5]])


def test_samples_of_one_tensor_are_raw_numbers_or_json(tmp_path: Path) -> None:
    raw, as_json = requests_of_samples(unpacked(tmp_path, NUMBERS_B2, names=("x",)))
    assert [
        torch.frombuffer(bytearray(body), dtype=torch.float32).tolist() for body in raw.bodies
    ] == (NUMBERS_B2.tolist())
    assert [json.loads(body) for body in as_json.bodies] == NUMBERS_B2.tolist()
    assert raw.content_types[0] == "application/octet-stream"
    assert as_json.content_types[0] == "application/json"


def test_raw_numbers_mean_nothing_without_a_signature(tmp_path: Path) -> None:
    (as_json,) = requests_of_samples(unpacked(tmp_path, NUMBERS_B2))
    assert as_json.what == "the archive's 2 samples as JSON"


def test_several_inputs_are_an_object_by_name(tmp_path: Path) -> None:
    (requests,) = requests_of_samples(unpacked(tmp_path, NUMBERS_B2, NUMBERS_B2, names=("a", "b")))
    assert json.loads(requests.bodies[1]) == {"a": [3.0, 4.5], "b": [3.0, 4.5]}


def test_without_samples_the_message_asks_for_a_body(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="--body FILE"):
        requests_of_samples(tmp_path)


def test_files_are_sent_as_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "b").write_bytes(b"other bytes")
    requests = requests_of_files([tmp_path / "a.jpg", tmp_path / "b"], None)
    assert requests.content_types == ("image/jpeg", "application/octet-stream")
    assert requests.largest_bytes == 11
    assert requests.as_http("my model")[0] == (
        b"POST /predictions/my%20model HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: image/jpeg\r\ncontent-length: 5\r\n\r\nimage"
    )


def test_a_content_type_that_is_given_is_for_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    assert requests_of_files([tmp_path / "a.jpg"], "text/plain").content_types == ("text/plain",)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"--body .*nothing\.jpg cannot be read"):
        requests_of_files([tmp_path / "nothing.jpg"], None)
