"""A small client of the management API, for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec

from flambeau.deployment import DeployEvent
from flambeau.errors import FlambeauError

_NO_LIMIT = httpx.Timeout(10.0, read=None)  # loading a model may take long; the server has limits


class ServerRefused(FlambeauError):  # noqa: N818  # the server's answer, not a fault of ours
    """The server cannot be reached, or answered with an error; the message is what it said."""


class ManagementClient:
    """Speaks to one server's management listener; a context manager."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        """Speak to a server.

        Args:
            url: Where its management listener is, e.g. `http://127.0.0.1:8081`.
            token: Its management key, if it asks for one.
        """
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_NO_LIMIT)
        self._url = url

    def __enter__(self) -> ManagementClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, **parameters: str | int | None) -> Any:  # noqa: ANN401  # any JSON
        """One call; returns the answer's JSON.

        Raises:
            ServerRefused: No connection, or a status of 400 or more.
        """
        try:
            response = self._http.request(method, path, params=_given(parameters))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 400:
            raise _refused(response)
        return response.json()

    def list_models(self) -> Iterator[dict[str, Any]]:
        """Every model's name and archive, through all pages."""
        token: str | None = None
        while True:
            page = self.call("GET", "/models", next_page_token=token)
            yield from page["models"]
            token = page.get("nextPageToken")
            if token is None:
                return

    def deploy(
        self, model: str, archive: str, **parameters: str | int | None
    ) -> Iterator[DeployEvent]:
        """Deploy an archive of the server's store; yields each step as it happens.

        Raises:
            ServerRefused: No connection, a refusal, or the connection broke on the way.
        """
        query = _given({"url": archive, **parameters})
        decoder = msgspec.json.Decoder(DeployEvent)
        try:
            with self._http.stream("POST", f"/models/{model}/deploy", params=query) as response:
                if response.status_code >= 400:
                    response.read()
                    raise _refused(response)
                for line in response.iter_lines():
                    yield decoder.decode(line)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> ServerRefused:
        return ServerRefused(
            f"no answer from {self._url} ({error}); is `flambeau serve` running there? "
            "Give another address with --management-url"
        )


def _given(parameters: dict[str, str | int | None]) -> dict[str, str | int]:
    return {key: value for key, value in parameters.items() if value is not None}


def _refused(response: httpx.Response) -> ServerRefused:
    try:
        document = response.json()
        text = str(document["message"])
        reason = f": {document['reason']}" if "reason" in document else ""
    except (ValueError, KeyError, TypeError):
        return ServerRefused(f"status {response.status_code}: {response.text}")
    if document.get("type") == "InvalidKeyException":
        reason = "; give the management key of the server's key file as FLAMBEAU_TOKEN or --token"
    return ServerRefused(f"{text}{reason}")
