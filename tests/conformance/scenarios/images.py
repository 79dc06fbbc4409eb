"""The handlers for images."""

from __future__ import annotations

import base64
import io
from typing import Final

from PIL import Image

from flambeau.torchserve.exchange import Request
from tests.conformance.scenario import Scenario, infer
from tests.conformance.vision import install_vision

_TEXT: Final = (("Content-Type", "text/plain"),)
_FORM: Final = (("Content-Type", "multipart/form-data; boundary=frontier"),)


def _png(width: int, height: int, *, mode: str = "RGB") -> bytes:
    """A small picture with all its pixels different, the same bytes each time."""
    image = Image.new("RGB", (width, height))
    image.putdata(
        [
            (x * 255 // width, y * 255 // height, (x * y) % 200)
            for y in range(height)
            for x in range(width)
        ]
    )
    file = io.BytesIO()
    image.convert(mode).save(file, "PNG")
    return file.getvalue()


def _form(name: str, body: bytes) -> bytes:
    head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
    return head.encode() + body + b"\r\n--frontier--\r\n"


def _of(model: str, view: str | None) -> tuple[Request, ...]:
    target = f"/predictions/{model}"
    return (
        infer(f"{model}: wide image", target, _png(40, 30), view=view),
        infer(f"{model}: tall image", target, _png(11, 50), view=view),
        infer(f"{model}: large image", target, _png(300, 260), view=view),
        infer(f"{model}: form", target, _form("data", _png(40, 30)), headers=_FORM, view=view),
        infer(f"{model}: base64", target, base64.b64encode(_png(40, 30)), headers=_TEXT, view=view),
        infer(f"{model}: no image", target, b"this is no image"),
        infer(f"{model}: nothing", target, b""),
    )


SCENARIOS = (
    Scenario(
        name="images",
        archives=("pixels", "boxes", "regions"),
        models=("pixels.mar", "boxes.mar", "regions.mar"),
        prepare=install_vision,
        requests=(
            *_of("pixels", None),
            *_of("boxes", None),
            *_of("regions", "outline"),
            infer("explanation", "/explanations/pixels", _png(40, 30), view="outline"),
            infer("explanation of a class", "/explanations/pixels",
                  _form("data", _png(40, 30))[:-len(b"--frontier--\r\n")]
                  + b'--frontier\r\nContent-Disposition: form-data; name="target"\r\n\r\n2\r\n'
                  + b"--frontier--\r\n", headers=_FORM, view="outline"),
        ),
    ),
)  # fmt: skip
