"""One model's OpenAPI document, as the inference listener shows it."""

from __future__ import annotations

from typing import Final

_RESPONSES: Final = {
    "200": {"description": "The model's answer"},
    "404": {"description": "Model not found or Model Version not found"},
    "500": {"description": "Internal Server Error"},
    "503": {"description": "No worker is available to serve request"},
}


def describe_model(model: str) -> dict[str, object]:
    """TorchServe's document about one model; the first path is spelt as TorchServe spells it."""
    paths = {
        f"/prediction/{model}": "prediction",
        f"/v1/models/{model}:predict": "v1_predict",
        f"/v2/models/{model}/infer": "v2_infer",
    }
    return {
        "openapi": "3.0.1",
        "info": {"title": f"RESTful API for: {model}", "version": "1.0.0"},
        "paths": {
            path: {"post": {"operationId": name, "parameters": [], "responses": _RESPONSES}}
            for path, name in paths.items()
        },
    }
