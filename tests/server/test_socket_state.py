from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flambeau.socket_state import let_nobody_in


def test_a_listener_that_closes_has_let_nobody_in_whom_it_did_not_accept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as late:
        address = listener.getsockname()
        with socket.create_connection(address) as early:
            early.sendall(b"asked before")
            let_nobody_in(listener)
            late.settimeout(0.05)
            with pytest.raises(TimeoutError):
                late.connect(address)
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(100) == b"asked before"
                listener.settimeout(0)
                with pytest.raises(BlockingIOError):
                    listener.accept()
                listener.close()
                accepted.sendall(b"answered after")
                assert early.recv(100) == b"answered after"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_a_unix_socket_is_left_as_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        let_nobody_in(listener)
        client.connect(path)
