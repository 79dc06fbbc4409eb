"""A model version that the original TorchServe answers for, behind our front.

    runner: torchserve          # in the archive's model-config.yaml

or `handler=torchserve` when it is registered. The worker starts a TorchServe for this one archive
and hands each request on to it over HTTP; to the front it is a worker like any other, so versions
with and without TorchServe stand side by side and set-default moves traffic between them.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from flambeau.context import Context
from flambeau.errors import HandlerFailed
from flambeau.handler_metrics import MetricsCache
from flambeau.loading import EntryPoint
from flambeau.manifest import MANIFEST_PATH, Manifest
from flambeau.model_yaml import read_model_yaml
from flambeau.torchserve.launch import Launch, Port
from flambeau.torchserve.upstream import RunningServer, running_upstream
from flambeau.weights import pickled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from flambeau.messages import LoadModel

    Start: TypeAlias = Callable[[Launch], AbstractContextManager[RunningServer]]

_OURS: Final = {  # what this connection, and not the client's, decides
    *("authorization", "connection", "content-length", "content-type", "expect", "host"),
    *("keep-alive", "transfer-encoding", "upgrade", "url_path", "explain", "describe"),
}
_THEIRS: Final = {
    *("connection", "content-length", "transfer-encoding", "x-request-id", "pragma"),
    *("cache-control", "expires", "ts_stream_next"),
}
_MAX_BYTES: Final = 2**31 - 1  # our front has its own limits


def load_runner(load: LoadModel) -> EntryPoint:
    """Start a TorchServe for the archive; it ends with this process's group.

    Raises:
        ConfigError: TorchServe cannot be installed, or there is no Java.
        UpstreamError: It did not start, or did not load the model.
    """
    model_dir = Path(load.model_dir)
    manifest_text = (model_dir / MANIFEST_PATH).read_bytes()
    config_file = Manifest.from_json(manifest_text).config_file
    context = Context(
        load.model_name,
        load.model_dir,
        json.loads(manifest_text),
        load.max_batch_size,
        None,
        load.server_version,
        load.limit_max_image_pixels,
        MetricsCache(load.model_metrics, model_name=load.model_name, auto_detect=False),
        model_yaml_config=read_model_yaml(model_dir, config_file),
        sequence_headers=load.sequence_headers,
    )
    if pickled.is_allowed(context.model_yaml_config):
        pickled.allow_in_this_process()
    runner = UpstreamRunner(
        launch_of(load), model_name=load.model_name, max_batch_size=load.max_batch_size
    )
    return EntryPoint(call=runner.handle, handler=None, context=context)


def launch_of(load: LoadModel) -> Launch:
    """How TorchServe is started for one unpacked archive."""
    model_dir = Path(load.model_dir)
    return Launch(
        store=model_dir.parent,
        models=(f"{load.model_name}={model_dir.name}",),
        properties={
            "decode_input_request": str(load.decode_inputs).lower(),
            "limit_max_image_pixels": str(load.limit_max_image_pixels).lower(),
            "max_request_size": str(_MAX_BYTES),
            "max_response_size": str(_MAX_BYTES),
            **({"service_envelope": load.service_envelope} if load.service_envelope else {}),
        },
        own_group=False,  # so that whatever ends this worker ends it, too
        scratch=model_dir.parent,  # which the front removes, should this worker be killed
    )


class UpstreamRunner:
    """Hands batches on to a TorchServe, request by request, all at once."""

    def __init__(
        self, launch: Launch, *, model_name: str, max_batch_size: int, start: Start | None = None
    ) -> None:
        """Start a server for one model and wait until it has loaded it.

        Args:
            launch: What it is started with.
            model_name: The model.
            max_batch_size: The most requests that are handed on at once.
            start: Starts it; `running_upstream` if None.

        Raises:
            UpstreamError: It did not start, or did not load the model.
        """
        # for the life of the worker
        self._stack = ExitStack()
        self._server = self._stack.enter_context((start or running_upstream)(launch))
        self._server.wait_models_ready()
        self._model_name = model_name
        self._threads = self._stack.enter_context(ThreadPoolExecutor(max_batch_size))
        self._client = self._stack.enter_context(httpx.Client(timeout=None, trust_env=False))  # noqa: S113  # the front has response_timeout

    def handle(self, rows: Sequence[Mapping[str, Any]], context: Context) -> list[object]:
        """Answer a batch: bytes, or the failure of a request that got no answer."""
        streams = len(rows) == 1
        answers = [
            self._threads.submit(self._answer, row, context, idx, stream=streams)
            for idx, row in enumerate(rows)
        ]
        return [answer.result() for answer in answers]

    def close(self) -> None:
        """End the TorchServe."""
        self._stack.close()

    def _answer(
        self, row: Mapping[str, Any], context: Context, idx: int, *, stream: bool
    ) -> object:
        headers = context.get_all_request_header(idx)
        if headers.get("describe") == "True":
            return self._describe()
        passed_on = {
            name: value
            for name, value in headers.items()
            if isinstance(value, str) and name.lower() not in _OURS
        }
        if set(row) == {"body"}:
            content_type = _content_type(headers, "body")
            passed_on |= {"Content-Type": content_type} if content_type else {}
            request = self._client.build_request(
                "POST", self._url(headers), headers=passed_on, content=_encoded(row["body"])
            )
        else:
            request = self._client.build_request(
                "POST", self._url(headers), headers=passed_on, files=_fields(row, headers)
            )
        try:
            answer = self._client.send(request, stream=True)
            try:
                return _passed_on(answer, context, idx, stream=stream)
            finally:
                answer.close()
        except httpx.TransportError as error:
            return HandlerFailed(f"TorchServe gave no answer: {error}")

    def _url(self, headers: Mapping[str, Any]) -> str:
        kind = "explanations" if headers.get("explain") == "True" else "predictions"
        url = f"{self._server.urls[Port.INFERENCE]}/{kind}/{self._model_name}"
        rest = headers.get("url_path")
        return f"{url}/{self._version()}/{rest}" if rest else url

    def _version(self) -> str:
        return str(self._description(customized=False)["modelVersion"])

    def _describe(self) -> object:
        return self._description(customized=True).get("customizedMetadata")

    def _description(self, *, customized: bool) -> dict[str, Any]:
        url = f"{self._server.urls[Port.MANAGEMENT]}/models/{self._model_name}"
        answer = self._client.get(url, params={"customized": str(customized).lower()})
        answer.raise_for_status()
        return dict(answer.json()[0])


def _passed_on(answer: httpx.Response, context: Context, idx: int, *, stream: bool) -> object:
    context.set_response_status(answer.status_code, answer.reason_phrase, idx)
    for name, value in answer.headers.items():
        if name.lower() not in _THEIRS:
            context.set_response_header(idx, name, value)
    if not stream or answer.headers.get("ts_stream_next") != "true":
        return answer.read()
    last = b""
    for piece in answer.iter_raw():  # one part late, as the last one is the result
        if last:
            context.send_intermediate([last])
        last = piece
    return last


def _fields(
    row: Mapping[str, Any], headers: Mapping[str, Any]
) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The inputs of a form, as files, which keep their content types."""
    return [
        (name, (name, _encoded(value), _content_type(headers, name) or "application/octet-stream"))
        for name, value in row.items()
    ]


def _content_type(headers: Mapping[str, Any], name: str) -> str:
    found = headers.get(name)
    return str(found.get("content-type", "")) if isinstance(found, dict) else ""


def _encoded(value: object) -> bytes:
    match value:
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case str():
            return value.encode()
        case _:
            return json.dumps(value).encode()
