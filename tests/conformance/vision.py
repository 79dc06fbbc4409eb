"""What the original's vision handlers need: torchvision and captum, in its own environment only.

There may be no build of torchvision for this PyTorch; a build for CUDA imports without one once the
two operators that it describes at import are declared. Images are cropped and scaled by Pillow, so
nothing else of its compiled part is asked for.
"""

from __future__ import annotations

from typing import Final

from flambeau.torchserve.upstream_environment import make_environment

_DECLARE: Final = """\
import torch
_library = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    try:
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass  # the compiled part is there
"""
_FIRST: Final = "import torchvision_operators  # what the compiled part would declare\n"


def install_vision() -> None:
    """Put torchvision and captum into the original's environment, unless they are there.

    Raises:
        ConfigError: pip failed.
    """
    environment = make_environment()
    declared = environment.home / "torchvision_operators.py"
    if declared.is_file():
        return
    environment.install("torchvision", "captum", with_dependencies=False)
    environment.install("matplotlib", "tqdm")
    package = environment.home / "torchvision" / "__init__.py"
    source = package.read_text(encoding="utf-8")
    package.write_text(_FIRST + source, encoding="utf-8")
    declared.write_text(_DECLARE, encoding="utf-8")
