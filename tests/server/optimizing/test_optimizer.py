"""Which form of a model a worker chooses, on archives of real TorchScript programs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from flambeau import torchscript
from flambeau.handler import BaseHandler
from flambeau.instance import ModelInstance
from flambeau.loading import load_handler
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.messages import LoadModel, OptimizeLevel, OptimizeWish
from flambeau.optimizing.candidates import Call, Candidate, candidates_for
from flambeau.optimizing.choice import Choice
from flambeau.optimizing.narrow import Narrow
from flambeau.optimizing.optimizer import Optimizer
from flambeau.parity import Samples, Tolerance
from flambeau.self_check import SelfCheck
from flambeau.signature import SAMPLES_PATH

CPU = torch.device("cpu")


class Convolutions(torch.nn.Module):
    """Large enough for folding and fusing to be worth it, small enough for a test."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, 16, 3)]
        for _ in range(3):
            layers += torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)
        self.layers = torch.nn.Sequential(*layers)
        self.last = torch.nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(self.layers(images).mean(dim=(2, 3)))
        return scores


def archive(root: Path, *, handler: str = "base_handler", samples: bool = True) -> Path:
    """An unpacked archive of convolutions in TorchScript, as the exporter makes it."""
    torch.manual_seed(0)
    model = Convolutions().eval()
    images = torch.randn(4, 3, 16, 16)
    (root / "MAR-INF").mkdir(parents=True)
    manifest = Manifest(
        model_name="mine", model_version="1", handler=handler, serialized_file="model.pt"
    )
    (root / MANIFEST_PATH).write_text(manifest.to_json())
    torchscript.save(torchscript.trace(model, [images[:2]]), root / "model.pt")
    if samples:
        with torch.no_grad():
            recorded = Samples(inputs=(images,), outputs=(model(images),), tolerance=Tolerance())
        (root / SAMPLES_PATH).write_bytes(recorded.to_safetensors())
    return root


def loaded(
    root: Path, *, level: OptimizeLevel = OptimizeLevel.SAFE, digest: str = ""
) -> ModelInstance:
    """A model that is warm and checked."""
    wish = OptimizeWish(level=level, archive_digest=digest)
    load = LoadModel("mine", "1", str(root), None, "cpu", 4, 1, 1_000, "0.1", optimize=wish)
    instance = ModelInstance.load(load, load_entry_point=load_handler)
    instance.warm_up()
    instance.check()
    return instance


def handler_of(instance: ModelInstance) -> BaseHandler:
    assert isinstance(instance.handler, BaseHandler)
    return instance.handler


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where choices are remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flambeau" / "optimizing"


def test_what_was_chosen_computes_what_was_recorded(tmp_path: Path) -> None:
    instance = loaded(archive(tmp_path / "model"))
    handler = handler_of(instance)
    images = torch.randn(3, 3, 16, 16)  # another batch than those that were measured
    with torch.no_grad():
        torch.testing.assert_close(handler.inference(images), handler.model(images))
    assert "1 thread" in instance.optimization


def test_the_model_a_handler_sees_stays_as_it_is(tmp_path: Path) -> None:
    handler = handler_of(loaded(archive(tmp_path / "model")))
    assert "layers.1.running_mean" in handler.model.state_dict()
    assert all(weight.is_leaf for weight in handler.model.parameters())


def test_a_model_that_is_exchanged_later_is_the_one_that_is_called(tmp_path: Path) -> None:
    handler = handler_of(loaded(archive(tmp_path / "model")))
    handler.model = torch.nn.Identity()
    assert handler.inference(torch.ones(2)).tolist() == [1, 1]


def test_off_leaves_everything_alone(tmp_path: Path, cache: Path) -> None:
    instance = loaded(archive(tmp_path / "model"), level=OptimizeLevel.OFF, digest="ab")
    handler = handler_of(instance)
    assert handler.model_to_call is handler.model
    assert instance.optimization == ""
    assert not cache.exists()


def test_without_samples_nothing_is_tried(tmp_path: Path) -> None:
    instance = loaded(archive(tmp_path / "model", samples=False))
    handler = handler_of(instance)
    assert handler.model_to_call is handler.model
    assert instance.optimization == "as exported: no samples in the archive"


def test_a_handler_that_calls_its_model_by_itself_is_left_alone(tmp_path: Path) -> None:
    root = archive(tmp_path / "model", handler="own.py")
    (root / "own.py").write_text(
        "from flambeau.handler import BaseHandler\n"
        "class Own(BaseHandler):\n"
        "    def inference(self, data):\n"
        "        return self.model(data).detach()\n"
    )
    assert "does not call the model" in loaded(root).optimization


class CloseCall(torch.nn.Module):
    """Two classes that bfloat16 cannot tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(torch.tensor([[1.0, 1.0001]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.scores


class Handler(BaseHandler):
    """Has this model already."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = torchscript.trace(model.eval(), [torch.ones(2, 1)])


def tried(model: torch.nn.Module, candidate: Candidate) -> tuple[Handler, str]:
    """What becomes of the only candidate."""
    inputs = torch.ones(3, 1)
    with torch.no_grad():
        samples = Samples(inputs=(inputs,), outputs=(model(inputs),), tolerance=Tolerance())
    handler = Handler(model)

    def only(*_: object, **_facts: object) -> list[Candidate]:
        return [candidate]

    check = SelfCheck(
        inference=handler.inference, samples=samples, max_batch_size=2, device=handler.device
    )
    optimizer = Optimizer(
        handler,
        check,
        wish=OptimizeWish(level=OptimizeLevel.AUTO),
        num_threads=1,
        find_candidates=only,
    )
    optimizer.run()
    return handler, optimizer.text


def test_fewer_bits_that_change_the_class_are_refused() -> None:
    model = CloseCall()
    narrow = Candidate(name="bfloat16", build=lambda: Narrow(model, device=CPU), is_narrow=True)
    handler, said = tried(model, narrow)
    assert handler.model_to_call is handler.model
    assert said.startswith("as exported, 1 thread, refused bfloat16 (other numbers")


def test_other_numbers_are_refused_whatever_their_speed() -> None:
    model = torch.nn.Linear(1, 2)

    def zeros(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2)

    fast = Candidate(name="fast", build=lambda: zeros)
    handler, said = tried(model, fast)
    assert handler.model_to_call is handler.model
    assert "refused fast (other numbers" in said


def test_a_form_that_is_right_on_the_samples_only_is_refused_and_discarded() -> None:
    model = torch.nn.Linear(1, 2)
    discarded: list[str] = []

    def as_if_all_were_samples(x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = model(torch.ones_like(x))
        return scores.detach()

    odd = Candidate(
        name="odd",
        build=lambda: as_if_all_were_samples,
        differs_by_size=True,
        discard=lambda: discarded.append("odd"),
    )
    handler, said = tried(model, odd)
    assert handler.model_to_call is handler.model
    assert "refused odd (other numbers" in said
    assert discarded == ["odd"]


def test_a_form_that_cannot_be_made_is_told_and_the_model_serves() -> None:
    def build() -> Call:
        raise RuntimeError("no such form")

    handler, said = tried(torch.nn.Linear(1, 2), Candidate(name="odd", build=build))
    assert handler.model_to_call is handler.model
    assert said == "as exported, 1 thread, refused odd (RuntimeError: no such form)"


def test_a_second_start_does_not_measure_again(tmp_path: Path) -> None:
    root = archive(tmp_path / "model")
    first = loaded(root, digest="ab").optimization
    assert loaded(root, digest="ab").optimization == f"{first}; as measured before"
    assert "before" not in loaded(root, digest="cd").optimization


def test_what_was_remembered_is_checked_again(tmp_path: Path, cache: Path) -> None:
    root = archive(tmp_path / "model")
    loaded(root, digest="ab")
    (path,) = cache.iterdir()
    gone = Choice(candidate="a form of another release")
    path.write_bytes(msgspec.json.encode(gone))
    assert "before" not in loaded(root, digest="ab").optimization


@pytest.mark.parametrize("damage", ["{", '{"candidate": 3}', '{"candidate": "x"}'])
def test_a_broken_memory_is_as_good_as_none(tmp_path: Path, cache: Path, damage: str) -> None:
    root = archive(tmp_path / "model")
    loaded(root, digest="ab")
    (path,) = cache.iterdir()
    path.write_text(damage)
    assert "before" not in loaded(root, digest="ab").optimization


def test_a_memory_that_cannot_be_written_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert "1 thread" in loaded(archive(tmp_path / "model"), digest="ab").optimization


def test_a_program_is_frozen_and_nothing_else_is_without_its_source() -> None:
    program = torchscript.trace(Convolutions().eval(), [torch.ones(1, 3, 16, 16)])

    def names(model: object, level: OptimizeLevel) -> list[str]:
        return [each.name for each in candidates_for(model, level=level, device=CPU)]

    assert names(program, OptimizeLevel.OFF) == []
    frozen = ["frozen and fused", "frozen, channels last", "frozen"]
    assert names(program, OptimizeLevel.SAFE) == frozen
    assert names(Convolutions(), OptimizeLevel.SAFE) == ["channels last"]
    assert names(torch.nn.Linear(1, 1), OptimizeLevel.SAFE) == []
    assert names(torch.relu, OptimizeLevel.SAFE) == []
