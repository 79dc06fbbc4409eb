from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

import pytest
import torch

from flambeau import torchscript
from flambeau.errors import ArchiveError
from flambeau.weights.compiled import compile_options, compiled

if TYPE_CHECKING:
    from collections.abc import Iterator


class Double(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * 2


@pytest.fixture(autouse=True)
def settings_are_undone() -> Iterator[None]:
    before = torch._dynamo.config.suppress_errors
    yield
    torch._dynamo.config.suppress_errors = before
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("pt2", "expected"),
    [
        (None, None),
        ("inductor", {"backend": "inductor"}),
        ({"backend": "inductor", "mode": "default"}, {"backend": "inductor", "mode": "default"}),
        ({"compile": {"enable": True}}, {}),
        ({"compile": {"enable": True, "backend": "eager"}}, {"backend": "eager"}),
        ({"compile": {"enable": False, "backend": "eager"}}, None),
        ({"compile": {"backend": "eager"}}, None),
        ({"export": {"aot_compile": True}}, None),
    ],
)
def test_settings_come_in_torchserves_forms(pt2: object, expected: object) -> None:
    assert compile_options(pt2) == expected


@pytest.mark.parametrize("pt2", [3, ["inductor"], {"compile": True}])
def test_settings_in_another_form_are_refused(pt2: object) -> None:
    with pytest.raises(ArchiveError, match=r"pt2 is .*; write {compile: {enable: true"):
        compiled(Double(), pt2)


def test_a_compiled_model_computes_the_same() -> None:
    model = compiled(Double(), {"compile": {"enable": True, "backend": "eager"}})
    assert isinstance(model, torch._dynamo.OptimizedModule)
    with torch.inference_mode():
        assert model(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("backend", ["indutcor", "fx2trt"])
def test_a_backend_that_is_not_there_leaves_the_model_eager(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Double()
    assert compiled(model, backend) is model
    assert backend in caplog.text
    assert "the model is eager" in caplog.text


def test_a_backend_that_fails_at_the_first_call_costs_no_answer() -> None:
    def failing(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> NoReturn:
        raise RuntimeError("no compiler found")

    logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)
    torch._dynamo.register_backend(failing, name="failing")
    model = compiled(Double(), {"compile": {"enable": True, "backend": "failing"}})
    assert model(torch.ones(2)).tolist() == [2.0, 2.0]


def test_programs_that_cannot_be_compiled_are_served_as_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = torchscript.script(Double())
    assert compiled(program, "inductor") is program
    assert "served as it is" in caplog.text
