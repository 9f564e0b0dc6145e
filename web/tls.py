"""TLS on a socket of our own: HTTPS without a proxy, and the certificates that clients show on it.

Which certificates mean anything is not decided here: what TLS itself can tell (a chain to an authority of `MAYFLY_CLIENT_CA`, its
time, its use, and that the client holds the key) ends a handshake, and `access` asks the store about the rest, at each request.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from access.authority import Authority
from database import open_certificates
from errors import NoAuthority, SettingRefused, StoreFailed
from keyfile import KeyFile, default_path, read_private
from settings import Settings

_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; all of TLS 1.3 have the same two properties: forward secrecy, and authenticated encryption."""


def server_context(settings: Settings) -> ssl.SSLContext:
    """The context of a server with the certificate of `settings`, which asks its clients for theirs if there is a `client_ca`.

    A client need not have one. One that shows a certificate that TLS can tell to be wrong gets no connection. Raises StartRefused,
    with one line that names the setting and what is wrong with its file.
    """
    assert settings.tls_certificate
    assert settings.tls_key
    _check_pair(settings.tls_certificate, settings.tls_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.set_alpn_protocols(["http/1.1"])
    # A certificate that comes up in the middle of a connection would be another client's.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # A body that was cut off can then still be refused in an answer. That it was is known by its length.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (ssl.SSLError, OSError):
        raise SettingRefused(f"MAYFLY_TLS_CERTIFICATE: {settings.tls_certificate}: TLS does not take it") from None
    if settings.client_ca:
        context.verify_mode = ssl.CERT_OPTIONAL
        # What the file names is trusted, and need not lead on to a root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(
            cadata=_own_authority(settings) if settings.client_ca == "ca" else _client_ca(settings.client_ca)
        )
    return context


def _own_authority(settings: Settings) -> str:
    """This server's own, from the database of certificates. Raises StartRefused if there is none, or it cannot be asked."""
    keys = KeyFile(settings.key_file or default_path())
    store = open_certificates(settings, keys.path)
    if store is None:
        raise SettingRefused("MAYFLY_CLIENT_CA is ca, and MAYFLY_CERTIFICATES_DATABASE_URL is off")
    try:
        return Authority(store, keys).pem().decode()
    except NoAuthority:
        raise SettingRefused(
            "MAYFLY_CLIENT_CA: this server has no authority yet; make one with: python server.py ca init"
        ) from None
    except StoreFailed:
        raise SettingRefused("MAYFLY_CLIENT_CA: the database of certificates does not answer") from None
    finally:
        store.close()


def _client_ca(path: Path) -> str:
    """The authorities in a PEM file. Raises SettingRefused unless there are some, and nothing else."""
    authorities = _certificates("MAYFLY_CLIENT_CA", path)
    for authority in authorities:
        try:
            is_ca = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, ValueError):
            is_ca = False
        if not is_ca:
            raise SettingRefused(f"MAYFLY_CLIENT_CA: {path}: it holds a certificate that is no authority's")
    return path.read_text()


def _check_pair(certificate: Path, key: Path) -> None:
    """Raise StartRefused unless they belong together and can be used now."""
    leaf = _certificates("MAYFLY_TLS_CERTIFICATE", certificate)[0]
    now = datetime.now(UTC)
    if now > leaf.not_valid_after_utc:
        raise SettingRefused(f"MAYFLY_TLS_CERTIFICATE: {certificate}: it has expired; put the new one there")
    if now < leaf.not_valid_before_utc:
        raise SettingRefused(f"MAYFLY_TLS_CERTIFICATE: {certificate}: it is not valid yet")
    what = f"MAYFLY_TLS_KEY: {key}"
    pem = read_private(key, what, "it is the private key of MAYFLY_TLS_CERTIFICATE")
    try:
        private = load_pem_private_key(pem, None)
    except TypeError:
        raise SettingRefused(f"{what}: it is under a passphrase, which nobody could type in at a start") from None
    except ValueError:
        raise SettingRefused(f"{what}: it holds no private key in PEM form") from None
    if private.public_key() != leaf.public_key():
        raise SettingRefused(f"{what}: it is not the key of the first certificate in {certificate}")


def _certificates(setting: str, path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file. Raises SettingRefused if it has none."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise SettingRefused(f"{setting}: {path}: it cannot be read ({error.strerror})") from None
    except ValueError:
        raise SettingRefused(f"{setting}: {path}: it holds no certificate in PEM form") from None
