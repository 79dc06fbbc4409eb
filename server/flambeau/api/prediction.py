"""One prediction over HTTP, whichever way it takes: FastAPI's routes, or the fast lane beside them.

Both read the paths from `PATHS`, and both ask the same questions in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.routing import compile_path

from flambeau.admission import handler_headers
from flambeau.api.body import BodyLimit
from flambeau.messages import InferenceRequest, Input
from flambeau.model_version import ModelVersion
from flambeau.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What a path asks for.

    Attributes:
        model: Its name.
        version: Which; None for the default.
        url_path: What followed the version; None where paths have no such part.
        explain: Whether an explanation is wanted instead of an answer; None where it cannot be.
        query_is_input: Whether the query's values are inputs of the model.
    """

    model: str
    version: str | None = None
    url_path: str | None = None
    explain: bool | None = None
    query_is_input: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionPath:
    """A path that answers with the model it names.

    Attributes:
        path: As routers write it.
        operation_id: TorchServe's.
        text: What it does, for the OpenAPI document.
        has_url_path: Whether handlers read what follows the version.
        explain, query_is_input: As `Call` has them.
    """

    path: str
    operation_id: str
    text: str
    has_url_path: bool = False
    explain: bool | None = None
    query_is_input: bool = False

    @property
    def parameters(self) -> list[dict[str, object]]:
        """The names in it, for the OpenAPI document."""
        _, _, convertors = compile_path(self.path)
        return [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in convertors
        ]

    def call(self, names: Mapping[str, str]) -> Call:
        """What a path with these names in its places asks for."""
        return Call(
            model=names["model_name"],
            version=names.get("model_version"),
            url_path=names.get("url_path", "") if self.has_url_path else None,
            explain=self.explain,
            query_is_input=self.query_is_input,
        )


_ANSWER: Final = "Answer one request with the model's default version."
_EXACTLY: Final = "Answer one request with exactly this version."
_EXPLAIN: Final = "Explain the default version's answer to one request."
_EXPLAIN_EXACTLY: Final = "Explain exactly this version's answer to one request."
_QUERY: Final = "Answer one request; the values of the query are inputs, too."

PATHS: Final = (
    PredictionPath(
        path="/predictions/{model_name}",
        operation_id="predictions",
        text=_ANSWER,
        has_url_path=True,
        explain=False,
    ),
    PredictionPath(
        path="/predictions/{model_name}/{model_version}",
        operation_id="version_predictions",
        text=_EXACTLY,
        has_url_path=True,
        explain=False,
    ),
    PredictionPath(
        path="/predictions/{model_name}/{model_version}/{url_path:path}",
        operation_id="path_predictions",
        text="The same, with the rest of the path for the handler to read.",
        has_url_path=True,
        explain=False,
    ),
    PredictionPath(
        path="/explanations/{model_name}",
        operation_id="explanations",
        text=_EXPLAIN,
        has_url_path=True,
        explain=True,
    ),
    PredictionPath(
        path="/explanations/{model_name}/{model_version}",
        operation_id="version_explanations",
        text=_EXPLAIN_EXACTLY,
        has_url_path=True,
        explain=True,
    ),
    # KServe's, versions 1 and 2
    PredictionPath(
        path="/v1/models/{model_name}:predict",
        operation_id="v1_predict",
        text=_ANSWER,
        explain=False,
    ),
    PredictionPath(
        path="/v1/models/{model_name}:explain",
        operation_id="v1_explain",
        text=_EXPLAIN,
        explain=True,
    ),
    PredictionPath(
        path="/v2/models/{model_name}/infer", operation_id="v2_infer", text=_ANSWER, explain=False
    ),
    PredictionPath(
        path="/v2/models/{model_name}/versions/{model_version}/infer",
        operation_id="v2_version_infer",
        text=_EXACTLY,
        explain=False,
    ),
    PredictionPath(
        path="/v2/models/{model_name}/explain",
        operation_id="v2_explain",
        text=_EXPLAIN,
        explain=True,
    ),
    # SageMaker's for one of several models
    PredictionPath(path="/models/{model_name}/invoke", operation_id="invoke", text=_ANSWER),
    # TorchServe's oldest
    PredictionPath(
        path="/{model_name}/predict",
        operation_id="legacy_predict",
        text=_QUERY,
        query_is_input=True,
    ),
    PredictionPath(
        path="/{model_name}/{model_version}/predict",
        operation_id="legacy_version_predict",
        text=_QUERY,
        query_is_input=True,
    ),
)
_PATTERNS: Final = tuple((compile_path(each.path)[0], each) for each in PATHS)


def find_call(path: str) -> Call | None:
    """What a decoded path asks for; None when no model answers there."""
    for pattern, each in _PATTERNS:
        if (found := pattern.match(path)) is not None:
            return each.call(found.groupdict())
    return None


def headers_for(call: Call, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """A client's headers, names in lower case, as its handler gets them."""
    client = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
    return handler_headers(client, url_path=call.url_path, explain=call.explain)


class Predictions:
    """What may be asked of the models of one server.

    Attributes:
        registry: What is served.
        body_limit: How long a body may be.
    """

    def __init__(self, registry: Registry, body_limit: BodyLimit) -> None:
        self.registry = registry
        self.body_limit = body_limit

    def prepare(
        self,
        call: Call,
        *,
        request_id: str,
        headers: list[tuple[str, str]],
        inputs: list[Input],
    ) -> tuple[ModelVersion, InferenceRequest]:
        """The version that is to answer, and what its worker will see.

        Args:
            call: What is asked for.
            request_id: The request's id.
            headers: As `headers_for` makes them.
            inputs: At least one.

        Raises:
            ModelNotFound: It, or its version, is not served any more.
        """
        request = InferenceRequest(request_id=request_id, headers=headers, inputs=inputs)
        return self.registry.resolve(call.model, call.version), request
