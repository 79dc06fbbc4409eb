"""What TorchServe had and Flambeau has not says so, once it is used."""

from __future__ import annotations

import pytest

from flambeau.errors import HandlerFailed
from flambeau.torchserve import unavailable
from flambeau.torchserve.mock_context import MockContext


def test_pippy_says_what_to_use_instead() -> None:
    for call in (unavailable.initialize_rpc_workers, unavailable.get_pipeline_driver):
        with pytest.raises(HandlerFailed, match=r"use torch\.distributed\.pipelining"):
            call("model", 2, None)
    with pytest.raises(HandlerFailed, match=r"use torch\.distributed\.pipelining"):
        unavailable.BasePippyHandler().initialize(MockContext())


def test_the_launcher_of_language_models_says_what_to_do_instead() -> None:
    with pytest.raises(SystemExit, match="vllm_handler"):
        unavailable.llm_launcher()
