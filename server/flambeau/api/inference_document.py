"""One model's OpenAPI document, as the inference listener shows it."""

from __future__ import annotations

from flambeau.api.openapi_answers import ANSWERS, components


def describe_model(model: str, *, keys: bool) -> dict[str, object]:
    """TorchServe's document about one model; the first path is spelt as TorchServe spells it.

    Args:
        model: Its name.
        keys: Whether the server asks for keys.
    """
    paths = {
        f"/prediction/{model}": "prediction",
        f"/v1/models/{model}:predict": "v1_predict",
        f"/v2/models/{model}/infer": "v2_infer",
    }
    responses = ANSWERS["predictions"].responses(keys=keys)
    return {
        "openapi": "3.0.1",
        "info": {"title": f"RESTful API for: {model}", "version": "1.0.0"},
        "paths": {
            path: {"post": {"operationId": name, "parameters": [], "responses": responses}}
            for path, name in paths.items()
        },
        "components": components(keys=keys),
    }
