"""Helpers that handlers import from `ts.utils.util` and `ts.handler_utils.utils`."""

from __future__ import annotations

from pathlib import Path

import pytest

from flambeau import errors
from flambeau.context import Context
from flambeau.errors import ArchiveError, FlambeauError, HandlerFailed
from flambeau.instance import encode_failure
from flambeau.messages import FailureKind, InferenceRequest, Input
from flambeau.torchserve.util import (
    CLEANUP_REGEX,
    PredictionException,
    PT2Backend,
    check_valid_pt2_backend,
    get_tokenizer,
    get_yaml_config,
    import_class,
    list_classes_from_module,
    load_label_mapping,
    map_class_to_label,
    send_intermediate_predict_response,
)


@pytest.mark.parametrize(("code", "status"), [(599, 599), (404, 404), (0, 500), (1000, 500)])
def test_a_prediction_exception_becomes_that_status(code: int, status: int) -> None:
    error = PredictionException("not today", code)
    failure = encode_failure(error)
    assert (failure.kind, failure.message) == (FailureKind.HANDLER_FAILED, "not today")
    assert failure.status == status
    assert (error.message, error.error_code, str(error)) == ("not today", code, "not today")


def test_a_prediction_exception_is_an_internal_error_by_default() -> None:
    assert encode_failure(PredictionException("x")).status == 500


def test_probabilities_get_their_labels() -> None:
    mapping = {"0": "cat", "2": "dog"}
    assert map_class_to_label([[0.9, 0.1]]) == [{"0": 0.9, "1": 0.1}]
    assert map_class_to_label([[0.9, 0.1]], mapping) == [{"cat": 0.9, "1": 0.1}]
    assert map_class_to_label([[0.9], [0.4]], mapping, [[2], [0]]) == [{"dog": 0.9}, {"cat": 0.4}]


def test_labels_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "index_to_name.json"
    assert load_label_mapping(path) is None
    path.write_text('{"0": ["n1", "tabby"]}')
    assert load_label_mapping(str(path)) == {"0": "tabby"}


def test_a_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("handler:\n  topk: 3\n")
    assert get_yaml_config(path) == {"handler": {"topk": 3}}
    with pytest.raises(ArchiveError, match=r"gone\.yaml"):
        get_yaml_config(tmp_path / "gone.yaml")


def test_classes_are_listed_by_their_parent() -> None:
    assert FlambeauError in list_classes_from_module(errors)
    found = list_classes_from_module(errors, HandlerFailed)
    assert found == [HandlerFailed]


def test_backends_of_torch_compile_are_known_by_name(caplog: pytest.LogCaptureFixture) -> None:
    assert check_valid_pt2_backend(PT2Backend.INDUCTOR)
    assert check_valid_pt2_backend("openvino")
    assert not check_valid_pt2_backend("outductor")
    assert "'outductor' is not one of eager, " in caplog.text


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("flambeau.errors.HandlerFailed", None),
        ("HandlerFailed", "flambeau.errors"),
        ("errors.HandlerFailed", "flambeau"),
    ],
)
def test_a_class_is_imported_by_its_dotted_name(name: str, prefix: str | None) -> None:
    assert import_class(name, prefix) is HandlerFailed


@pytest.mark.parametrize("name", ["HandlerFailed", "flambeau.errors.Nobody", "flambeau.nobody.X"])
def test_a_class_that_is_not_there_is_an_import_error(name: str) -> None:
    with pytest.raises(ImportError):
        import_class(name)


def test_tags_and_entities_are_found() -> None:
    assert CLEANUP_REGEX.sub("", "<b>bold</b>&nbsp; text&#33;") == "bold text"


def test_text_is_split_as_asked_for() -> None:
    assert get_tokenizer(None)("You, Me") == ["You,", "Me"]
    assert get_tokenizer("basic_english")("You, Me") == ["you", ",", "me"]
    assert get_tokenizer(list)("ab") == ["a", "b"]
    with pytest.raises(ValueError, match="no tokenizer 'spacy'; use basic_english"):
        get_tokenizer("spacy")


@pytest.fixture
def context() -> Context:
    made = Context("mine", "/", {}, 2, None, "0.1")
    inputs = [Input("body", None, memoryview(b""))]
    made.begin_batch([InferenceRequest(name, [], inputs) for name in ("a", "b")])
    return made


def test_parts_of_answers_are_sent_by_the_context(context: Context) -> None:
    sent: list[object] = []
    context.intermediate_sink = sent.append
    send_intermediate_predict_response(["x", "y"], context.request_ids, "Prediction", 200, context)
    assert sent == [["x", "y"]]


def test_parts_go_to_the_whole_batch_or_nowhere(context: Context) -> None:
    with pytest.raises(HandlerFailed, match="needs the context"):
        send_intermediate_predict_response(["x"], {}, "Prediction", 200)
    with pytest.raises(HandlerFailed, match="all requests of a batch"):
        send_intermediate_predict_response(["x"], {0: "b"}, "Prediction", 200, context)
    with pytest.raises(HandlerFailed, match="while a batch is answered"):
        send_intermediate_predict_response(["x"], context.request_ids, "", 200, context)
