"""TLS for listeners: with the certificate that was given, or one made for this start.

A client that speaks plain HTTP to a TLS port is told so, as TorchServe does, where most servers
just hang up.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from flambeau.config import ServeConfig
from flambeau.errors import ConfigError

_log = logging.getLogger(__name__)

_SELF_SIGNED_DAYS = 365
_BODY = b'{\n  "status": "This TorchServe instance only accepts HTTPS requests"\n}\n'
_ONLY_HTTPS = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def tls_context(config: ServeConfig) -> ssl.SSLContext:
    """What listeners with https addresses speak.

    Raises:
        ConfigError: The certificate, its key or the clients' authorities cannot be used, or no
            certificate can be made.
    """
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if config.certificate_file is None or config.private_key_file is None:
        _use_self_signed(context)
        return context
    try:
        # with any password, a key that needs one is an error and not a question at the terminal
        context.load_cert_chain(config.certificate_file, config.private_key_file, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"certificate_file {config.certificate_file} with private_key_file "
            f"{config.private_key_file} cannot be used: {error}; give a PEM certificate chain and "
            "its key without a passphrase"
        ) from error
    if config.client_ca_file is not None:
        _ask_for_certificates(context, config.client_ca_file)
    return context


def client_name(transport: asyncio.BaseTransport) -> str:
    """Whom a client's certificate is for, as RFC 4514 writes it; empty where it has shown none."""
    certificate = transport.get_extra_info("peercert") or {}
    return ",".join(
        "+".join(f"{_SHORT.get(key, key)}={_SPECIAL.sub(_escaped, value)}" for key, value in part)
        for part in reversed(certificate.get("subject", ()))
    )


_SPECIAL: Final = re.compile(r'[,+"\\<>;=]')
_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
}


def _escaped(special: re.Match[str]) -> str:
    return f"\\{special[0]}"


def _ask_for_certificates(context: ssl.SSLContext, authorities: Path) -> None:
    """Let nobody in without a certificate that one of these has signed."""
    try:
        context.load_verify_locations(authorities)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"client_ca_file {authorities} cannot be used: {error}; give certificates of "
            "authorities, PEM"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED


def _use_self_signed(context: ssl.SSLContext) -> None:
    """Have `openssl` make a certificate that lives as long as this process."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ConfigError(
            "an https:// address needs certificate_file and private_key_file: there is no "
            "`openssl` here to make a self-signed certificate with"
        )
    host = socket.gethostname()
    with tempfile.TemporaryDirectory(prefix="flambeau-tls-") as directory:
        certificate, key = Path(directory, "certificate.pem"), Path(directory, "key.pem")
        done = subprocess.run(
            [
                *(openssl, "req", "-x509", "-nodes", "-days", str(_SELF_SIGNED_DAYS)),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
                *("-addext", f"subjectAltName=DNS:localhost,DNS:{host},IP:127.0.0.1,IP:::1"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ConfigError(f"openssl made no self-signed certificate: {done.stderr.strip()}")
        context.load_cert_chain(certificate, key)
    _log.warning("using a self-signed certificate; set certificate_file for one clients trust")


class _Context(ssl.SSLContext):
    """Makes connections that answer plain HTTP."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002  # as the method it overrides
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        self.sslobject_class = _Connection
        connection = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(connection, _Connection)
        connection.outgoing = outgoing
        return connection


class _Connection(ssl.SSLObject):
    """A TLS connection; one that begins with a plain HTTP request gets a plain answer.

    After that it waits for more of a handshake that never comes: the client hangs up, or the event
    loop does at the handshake's deadline.
    """

    outgoing: ssl.MemoryBIO | None = None
    _is_plain = False

    def do_handshake(self) -> None:
        if self._is_plain:
            raise ssl.SSLWantReadError
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if error.reason != "HTTP_REQUEST" or self.outgoing is None:
                raise
            self._is_plain = True
            self.outgoing.write(_ONLY_HTTPS)
            raise ssl.SSLWantReadError from error
