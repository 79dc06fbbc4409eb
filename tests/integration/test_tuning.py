"""`flambeau tune` from start to end: a real server, real workers, real load, a tiny model."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from flambeau.archive import digest, read_file, write_archive
from flambeau.manifest import Manifest
from flambeau.parity import Samples, Tolerance
from flambeau.signature import SAMPLES_PATH, SIGNATURE_PATH, Signature, TensorSpec
from flambeau.testing import make_archive
from tests.integration.server import (
    FLAMBEAU,
    PATIENCE_S,
    Lines,
    clean_environment,
    running_server,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LONG_S = 300.0  # some ten workers start one after the other, each in seconds if others compute, too

MODEL = """
import torch

class Sum(torch.nn.Module):
    def forward(self, numbers):
        return numbers.sum(dim=1)
"""
YAML = "# of the author\nbatchSize: 3\nhandler: {note: kept}\n"


def summing(directory: Path) -> Path:
    """Three numbers to their sum, with samples to make requests of."""
    numbers_B3 = torch.arange(12.0).reshape(4, 3)
    samples = Samples(inputs=(numbers_B3,), outputs=(numbers_B3.sum(1),), tolerance=Tolerance())
    signature = Signature(
        inputs=(TensorSpec(name="numbers", dtype="float32", shape=(None, 3)),),
        outputs=(TensorSpec(name="output_0", dtype="float32", shape=(None,)),),
    )
    path = directory / "summing-1.0.mar"
    write_archive(
        path,
        manifest=Manifest(
            model_name="summing",
            handler="base_handler",
            model_file="model.py",
            config_file="model-config.yaml",
        ),
        files={
            "model.py": MODEL.encode(),
            "model-config.yaml": YAML.encode(),
            SIGNATURE_PATH: signature.to_json().encode(),
            SAMPLES_PATH: samples.to_safetensors(),
        },
    )
    return path


@contextmanager
def tuning(*flags: str | Path) -> Generator[tuple[subprocess.Popen[bytes], Lines]]:
    """`flambeau tune` and what it prints; ended with the block."""
    process = subprocess.Popen(
        [FLAMBEAU, "tune", *map(str, flags)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=clean_environment(),
    )
    assert process.stdout is not None
    lines = Lines(process.stdout)
    try:
        yield process, lines
    finally:
        process.terminate()  # nothing when it has ended; it ends its server
        process.wait(PATIENCE_S)
        lines.wait_closed()


def test_what_was_tuned_is_served_with_the_settings_that_won(tmp_path: Path) -> None:
    archive = summing(tmp_path)
    before = digest(archive)
    store = tmp_path / "store"
    store.mkdir()
    tuned = store / "tuned.mar"
    flags = ["--slo", "p50=9s,p99=10s", "--budget", "3s"]
    with tuning(archive, *flags, "--archive", tuned) as (process, lines):
        lines.wait(lambda line: line == f"wrote {tuned}", timeout_s=LONG_S)
        assert process.wait(PATIENCE_S) == 0
        printed = "\n".join(lines.wait_closed())
    assert "requests are the archive's 4 samples as raw numbers" in printed
    assert "the archive as it is" in printed
    assert "frontier" in printed
    assert "\nbest: " in printed
    assert "\x1b" not in printed  # no terminal, no escapes

    text = (tmp_path / "summing-1.0.yaml").read_text()
    assert text.startswith("# flambeau tune --slo p50=9s,p99=10s: ")
    assert "# of the author" in text
    settings = yaml.safe_load(text)
    assert settings["handler"] == {"note": "kept"}
    assert {"minWorkers", "maxWorkers", "batchSize", "maxBatchDelay"} <= settings.keys()
    assert read_file(tuned, "model-config.yaml") == text.encode()
    assert digest(archive) == before

    handler = """
        import torch

        def handle(data, context):
            return data and [torch.get_num_threads()] * len(data)  # no data when it is loaded
    """
    threads = make_archive(
        store, name="threads", handler=handler, model_yaml="threadsPerWorker: 3\nminWorkers: 1"
    )
    with running_server(store, models=["tuned.mar"]) as server:
        assert server.predict("summing", json=[1, 2, 3]).json() == 6
        described = server.describe("summing")
        assert described["batchSize"] == settings["batchSize"]
        assert described["minWorkers"] == described["maxWorkers"] == settings["minWorkers"]
        assert described["maxBatchDelay"] == settings["maxBatchDelay"]
        assert server.register(threads).status_code == 200
        assert server.predict("threads", json={}).json() == 3


def test_ctrl_c_ends_everything_prints_the_best_so_far_and_writes_nothing(tmp_path: Path) -> None:
    archive = summing(tmp_path)
    with tuning(archive, "--slo", "p99=10s", "--budget", "60s") as (process, lines):
        lines.wait(lambda line: line.endswith("the archive as it is"), timeout_s=LONG_S)
        began = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130, lines.so_far()
        printed = lines.wait_closed()
    assert any(line.startswith("interrupted; best so far: ") for line in printed)
    wait_until(lambda: not any(each.is_running() for each in began), what="all children end")
    assert list(tmp_path.iterdir()) == [archive]
