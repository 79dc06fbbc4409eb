"""The names that archives import from `ts`, where TorchServe is not installed."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flambeau
from flambeau.handler import BaseHandler
from flambeau.torchserve.names_path import NAMES_DIR, use_names
from flambeau.torchserve.util import PredictionException

NAMES = {
    "ts": "__version__",
    "ts.context": "Context RequestProcessor",
    "ts.handler_utils.distributed.deepspeed": "get_ds_engine create_checkpoints_json",
    "ts.handler_utils.distributed.pt_pippy": "initialize_rpc_workers get_pipeline_driver",
    "ts.handler_utils.hf_batch_streamer": "TextIteratorStreamerBatch",
    "ts.handler_utils.micro_batching": "MicroBatching HANDLER_METHODS",
    "ts.handler_utils.preprocess.dali": "get_dali_pipeline",
    "ts.handler_utils.text_utils": "get_tokenizer ngrams_iterator",
    "ts.handler_utils.timer": "timed",
    "ts.handler_utils.utils": "send_intermediate_predict_response import_class",
    "ts.launcher": "start stop register_model register_model_with_params",
    "ts.llm_launcher": "main",
    "ts.metrics.caching_metric": "CachingMetric",
    "ts.metrics.dimension": "Dimension",
    "ts.metrics.metric": "Metric",
    "ts.metrics.metric_cache_yaml_impl": "MetricsCacheYamlImpl",
    "ts.metrics.metric_type_enum": "MetricTypes",
    "ts.metrics.metrics_store": "MetricsStore",
    "ts.metrics.unit": "Units",
    "ts.model_service.model_service": "ModelService SingleNodeService",
    "ts.protocol.otf_message_handler": "send_intermediate_predict_response",
    "ts.service": "PredictionException PREDICTION_METRIC",
    "ts.torch_handler.base_handler": "BaseHandler",
    "ts.torch_handler.contractions": "CONTRACTION_MAP",
    "ts.torch_handler.densenet_handler": "DenseNetHandler",
    "ts.torch_handler.distributed.base_deepspeed_handler": "BaseDeepSpeedHandler",
    "ts.torch_handler.distributed.base_pippy_handler": "BasePippyHandler",
    "ts.torch_handler.image_classifier": "ImageClassifier",
    "ts.torch_handler.image_segmenter": "ImageSegmenter",
    "ts.torch_handler.object_detector": "ObjectDetector",
    "ts.torch_handler.request_envelope.base": "BaseEnvelope",
    "ts.torch_handler.request_envelope.body": "BodyEnvelope",
    "ts.torch_handler.request_envelope.json": "JSONEnvelope",
    "ts.torch_handler.request_envelope.kserve": "KServeEnvelope",
    "ts.torch_handler.request_envelope.kservev2": "KServev2Envelope",
    "ts.torch_handler.text_classifier": "TextClassifier",
    "ts.torch_handler.text_handler": "TextHandler",
    "ts.torch_handler.unit_tests.test_utils.mock_context": "MockContext",
    "ts.torch_handler.vision_handler": "VisionHandler",
    "ts.torch_handler.vllm_handler": "VLLMHandler",
    "ts.utils.util": "PredictionException load_label_mapping map_class_to_label PT2Backend"
    " list_classes_from_module check_valid_pt2_backend get_yaml_config CLEANUP_REGEX",
    "ts.version": "__version__",
}

pytestmark = pytest.mark.usefixtures("imports_are_undone")


def ts(name: str) -> Any:  # noqa: ANN401  # a module
    """A module of `ts`, as a worker imports it."""
    use_names()
    return importlib.import_module(name)


@pytest.mark.parametrize("module", NAMES)
def test_what_archives_import_is_there(module: str) -> None:
    for name in NAMES[module].split():
        assert hasattr(ts(module), name)


def test_every_module_can_be_imported() -> None:
    for found in pkgutil.walk_packages(ts("ts").__path__, "ts."):
        module = ts(found.name)
        assert all(hasattr(module, name) for name in getattr(module, "__all__", ()))


def test_a_name_means_the_class_that_the_worker_knows() -> None:
    assert ts("ts.torch_handler.base_handler").BaseHandler is BaseHandler
    assert ts("ts.service").PredictionException is PredictionException


def test_an_older_way_to_stream_is_the_same_function() -> None:
    old, new = ts("ts.protocol.otf_message_handler"), ts("ts.handler_utils.utils")
    assert old.send_intermediate_predict_response is new.send_intermediate_predict_response


def test_the_names_stay_what_they_are_when_a_file_is_called_ts(tmp_path: Path) -> None:
    use_names()
    (tmp_path / "ts.py").write_text("raise RuntimeError('the wrong one')\n")
    sys.path.insert(0, str(tmp_path))
    assert ts("ts.utils.util").PredictionException is PredictionException


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(Path(flambeau.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_an_installed_torchserve_is_used_when_the_environment_says_so(tmp_path: Path) -> None:
    (tmp_path / "ts").mkdir()
    (tmp_path / "ts" / "__init__.py").write_text("")
    program = (
        f"import sys; sys.path.append({str(tmp_path)!r}); from flambeau.torchserve import"
        " names_path; names_path.use_names(); import ts; print(ts.__file__)"
    )
    assert run(program).startswith(str(NAMES_DIR))
    asked = run(program, FLAMBEAU_USE_TORCHSERVE_PACKAGE="true")
    assert asked.startswith(str(tmp_path))


def test_importing_ts_imports_no_torch() -> None:
    program = (
        "import sys; from flambeau.torchserve.names_path import use_names; use_names(); import ts;"
        " print('torch' in sys.modules)"
    )
    assert run(program) == "False"
