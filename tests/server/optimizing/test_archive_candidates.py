"""Programs that an archive has beside its served one: taken where they are faster, and right."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from flambeau import torchscript
from flambeau.archive_programs import ArchiveProgram, Needs, programs_json
from flambeau.errors import HandlerFailed
from flambeau.handler import BaseHandler
from flambeau.instance import ModelInstance
from flambeau.loading import load_handler
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.messages import LoadModel, OptimizeLevel, OptimizeWish
from flambeau.optimizing.archive_candidates import ArchiveCandidates
from flambeau.optimizing.machine import cpu_flags, lacking, needs_of_code
from flambeau.parity import Samples, Tolerance
from flambeau.signature import PROGRAMS_PATH, SAMPLES_PATH

CPU = torch.device("cpu")


class Doubling(nn.Module):
    """Doubles, adds, and takes its time for that."""

    def __init__(self, *, turns: int, added: float = 0.0) -> None:
        super().__init__()
        self.turns = turns
        self.added = added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.turns):
            x = x.sort(dim=1)[0]
        return x * 2 + self.added


class InATuple(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x


def program(root: Path, name: str, model: nn.Module, **facts: Any) -> ArchiveProgram:  # noqa: ANN401
    """A program beside the served one, in a file of this name."""
    torchscript.save(torchscript.trace(model, [torch.ones(1, 512)]), root / name)
    sha256 = hashlib.sha256((root / name).read_bytes()).hexdigest()
    settings: dict[str, Any] = {"target": "torchscript", "precision": "fp32", **facts}
    return ArchiveProgram(file=name, sha256=sha256, **settings)


def archive(root: Path) -> Path:
    """An unpacked archive, whose served program is slow."""
    (root / "MAR-INF").mkdir(parents=True)
    manifest = Manifest(
        model_name="mine", model_version="1", handler="base_handler", serialized_file="model.pt"
    )
    (root / MANIFEST_PATH).write_text(manifest.to_json())
    program(root, "model.pt", Doubling(turns=20))
    inputs = torch.arange(3 * 512.0).reshape(3, 512) / 512
    samples = Samples(inputs=(inputs,), outputs=(inputs * 2,), tolerance=Tolerance())
    (root / SAMPLES_PATH).write_bytes(samples.to_safetensors())
    return root


def loaded(root: Path, *programs: ArchiveProgram, level: OptimizeLevel) -> ModelInstance:
    """The model, warm and checked, with these programs beside it."""
    (root / PROGRAMS_PATH).write_bytes(programs_json(programs))
    wish = OptimizeWish(level=level, archive_digest="")
    load = LoadModel("mine", "1", str(root), None, "cpu", 4, 1, 1_000, "0.1", optimize=wish)
    instance = ModelInstance.load(load, load_entry_point=load_handler)
    instance.warm_up()
    instance.check()
    return instance


@pytest.mark.slow
def test_a_faster_program_of_the_archive_answers(tmp_path: Path) -> None:
    root = archive(tmp_path / "model")
    fast = program(root, "fast.pt", Doubling(turns=0))
    instance = loaded(root, fast, level=OptimizeLevel.SAFE)
    assert instance.optimization.startswith("the archive's torchscript in fp32, ")
    handler = instance.handler
    assert isinstance(handler, BaseHandler)
    assert handler.inference(torch.ones(2, 512)).tolist() == [[2.0] * 512] * 2


@pytest.mark.slow
def test_one_that_computes_something_else_is_told_and_left_aside(tmp_path: Path) -> None:
    root = archive(tmp_path / "model")
    wrong = program(root, "wrong.pt", Doubling(turns=0, added=0.01))
    said = loaded(root, wrong, level=OptimizeLevel.SAFE).optimization
    assert "refused the archive's torchscript in fp32 (other numbers: sample" in said


@pytest.mark.slow
@pytest.mark.parametrize(("level", "is_taken"), [("safe", False), ("auto", True)])
def test_fewer_bits_are_taken_only_where_they_are_wished_for(
    tmp_path: Path, level: str, *, is_taken: bool
) -> None:
    root = archive(tmp_path / "model")
    narrow = program(root, "narrow.pt", Doubling(turns=0, added=0.05), precision="int8", share=0.05)
    said = loaded(root, narrow, level=OptimizeLevel(level)).optimization
    assert said.startswith("the archive's torchscript in int8") is is_taken
    assert ("int8" in said) is is_taken


@pytest.mark.slow
def test_one_that_this_machine_cannot_run_is_told(tmp_path: Path) -> None:
    root = archive(tmp_path / "model")
    needs = Needs(cpu_flags=["avx4096"])
    foreign = program(root, "foreign.pt", Doubling(turns=0), needs=needs)
    said = loaded(root, foreign, level=OptimizeLevel.SAFE).optimization
    name = "the archive's torchscript in fp32"
    assert f"refused {name} (it needs a processor with avx4096)" in said


def candidates_of(root: Path, *programs: ArchiveProgram) -> list[Any]:
    root.mkdir(exist_ok=True)
    (root / "MAR-INF").mkdir(exist_ok=True)
    (root / PROGRAMS_PATH).write_bytes(programs_json(programs))
    found = ArchiveCandidates(root, device=CPU, max_batch_size=4)
    return list(
        found.of(Doubling(turns=0), lambda size: [torch.ones(size, 512)], level=OptimizeLevel.SAFE)
    )


def test_outputs_that_a_handler_would_not_know_are_refused(tmp_path: Path) -> None:
    (odd,) = candidates_of(tmp_path, program(tmp_path, "odd.pt", InATuple()))
    with pytest.raises(HandlerFailed, match="put together in another way"):
        odd.build()


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    listed = program(tmp_path, "x.pt", Doubling(turns=0))
    (odd,) = candidates_of(tmp_path, msgspec.structs.replace(listed, file="x.engine"))
    with pytest.raises(HandlerFailed, match=r"\.engine is no kind of program"):
        odd.build()


def test_machine_code_runs_only_what_it_was_made_for(tmp_path: Path) -> None:
    """Anything else goes to the model itself, as code reads beyond the end of what is smaller."""
    code = program(tmp_path, "code.pt", Doubling(turns=0, added=1.0), target="aot_inductor")
    (candidate,) = candidates_of(tmp_path, code)
    assert candidate.differs_by_size
    call = candidate.build()
    assert call(torch.ones(4, 512))[3, 0] == 3
    for other in (torch.ones(5, 512), torch.ones(4, 3), torch.ones(4, 512, dtype=torch.float64)):
        assert call(other)[3, 0] == 2
    assert call(x=torch.ones(4, 512))[0, 0] == 2


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"needs": Needs(device="cuda")}, "it needs device cuda, and this is cpu"),
        ({"needs": Needs(machine="s390x")}, "it needs machine s390x, and this is"),
        ({"needs": Needs(capability="9.0")}, "it needs capability 9.0, and this is none"),
        ({"needs": Needs(torch=">=99")}, "it needs torch >=99, and this is"),
        ({"needs": Needs(cpu_flags=["warp"])}, "it needs a processor with warp"),
    ],
)
def test_what_a_machine_lacks_is_named(facts: dict[str, Any], says: str) -> None:
    listed = ArchiveProgram(file="x.pt", target="torchscript", precision="fp32", sha256="", **facts)
    assert lacking(listed, CPU).startswith(says)


def test_code_that_was_compiled_here_runs_here() -> None:
    listed = ArchiveProgram(
        file="x.pt2", target="aot_inductor", precision="fp32", sha256="", needs=needs_of_code(CPU)
    )
    assert lacking(listed, CPU) == ""
    assert set(listed.needs.cpu_flags) <= cpu_flags()
