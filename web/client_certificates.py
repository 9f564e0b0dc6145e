"""Which certificate a client has shown on its TLS connection: on a socket of ours, or to a proxy that tells us (RFC 9440).

A proxy is believed on a Unix socket, where only who may connect to it speaks, or with the secret of `MAYFLY_PROXY_SECRET`. What
others say is dropped at the gate, before anything sees it. Whose the certificate is, and whether it counts, `access` knows.
"""

from __future__ import annotations

import base64
import hmac
import re
import socket
import ssl
from typing import Any

_CERTIFICATE, _CHAIN, _SECRET = "HTTP_CLIENT_CERT", "HTTP_CLIENT_CERT_CHAIN", "HTTP_MAYFLY_PROXY_SECRET"
_BY_PROXY = "mayfly.by_proxy"
_MAX_CHARACTERS = 8 * 1024
"""Of a certificate in base64. Ours have about 1,100."""
_BYTES = re.compile(":([A-Za-z0-9+/]+={0,2}):")
"""An item that is a byte sequence (RFC 8941 section 3.3.5), with no parameters."""


def drop_unbelieved(environ: dict[str, Any], secret: str | None) -> None:
    """Leave in `environ` what a believed proxy says of its client's certificate, and nothing of anybody else's.

    What is believed is that the proxy speaks: if it names no certificate, its client has shown none, whatever it shows itself.
    """
    said, shown = environ.pop(_SECRET, None), environ.get(_CERTIFICATE)
    environ.pop(_CHAIN, None)
    knows = secret is not None and said is not None and hmac.compare_digest(said.encode(), secret.encode())
    if knows or _on_unix_socket(environ):
        environ[_BY_PROXY] = True
    elif shown is not None:
        del environ[_CERTIFICATE]


def presented_certificate(environ: dict[str, Any]) -> bytes | None:
    """The certificate, as DER, whose key the client of this request has shown to hold; None if it has shown none."""
    if environ.get(_BY_PROXY):
        return _decoded(environ.get(_CERTIFICATE, ""))
    connection = environ.get("gunicorn.socket")
    return connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLSocket) else None


def _on_unix_socket(environ: dict[str, Any]) -> bool:
    connection = environ.get("gunicorn.socket")
    return connection is not None and connection.family == socket.AF_UNIX


def _decoded(field: str) -> bytes | None:
    match = _BYTES.fullmatch(field.strip()) if len(field) <= _MAX_CHARACTERS else None
    if not match:
        return None
    try:
        return base64.b64decode(match[1], validate=True)
    except ValueError:
        return None
