"""Bytes to a server and back, without a client that would mend them."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

from tests.integration.server import PATIENCE_S, Server


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One response.

    Attributes:
        status: E.g. 200.
        headers: Names in lower case; of equal ones the last.
        body: Whole.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """Its body, which must be the documented error and nothing else."""
        document: dict[str, Any] = json.loads(self.body)
        assert list(document) == ["code", "type", "message"], document
        assert document["code"] == self.status
        assert document["message"]
        assert self.headers["content-type"] == "application/json"
        return document


def connect(server: Server, listener: str = "inference") -> socket.socket:
    """A connection to one of a server's listeners."""
    url = getattr(server, listener).base_url
    return socket.create_connection((url.host, url.port or 0), PATIENCE_S)


def converse(server: Server, data: bytes, listener: str = "inference") -> bytes:
    """All that comes back on one connection until the server closes it."""
    with connect(server, listener) as client:
        sending = server.in_thread(lambda: send(client, data)) if len(data) > 1 << 16 else None
        if sending is None:
            send(client, data)
        answer = receive(client)
        if sending is not None:
            sending.result()
    return answer


def send(client: socket.socket, data: bytes) -> None:
    """Send all of it, unless the server closes the connection first."""
    try:
        client.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return


def receive(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = bytearray()
    while True:
        try:
            part = client.recv(1 << 16)
        except ConnectionResetError:
            part = b""  # what came before is the answer
        if not part:
            return bytes(received)
        received += part


def until_answered(client: socket.socket) -> bytes:
    """One answer of ours in JSON, whether or not the connection ends with it."""
    received = b""
    while not received.endswith(b"}\n"):
        received += client.recv(4096)
    return received


def answers(data: bytes) -> list[Answer]:
    """What a server has sent on one connection, response by response; nothing may be left over.

    Interim responses are left out. No request may have been a HEAD.
    """
    found: list[Answer] = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, head
        line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1", line
        pairs = (each.partition(": ") for each in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        if int(status) < 200:
            continue
        if headers.get("transfer-encoding") == "chunked":
            body, data = _chunks(data)
        else:
            length = int(headers["content-length"])
            body, data = data[:length], data[length:]
            assert len(body) == length
        found.append(Answer(status=int(status), headers=headers, body=body))
    return found


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        assert data[count : count + 2] == b"\r\n"
        body += data[:count]
        data = data[count + 2 :]
        if not count:
            return body, data
