"""TLS contexts of listeners, out of PEM files, and what is wrong with those files.

Owns what a listener offers: TLS 1.2 or 1.3 with OpenSSL's own choice of ciphers, no renegotiation.
Not imported before a listener speaks TLS, nor by `gateway/mqtt`.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from gateway.errors import ListenerFileUnusable
from gateway.listeners import TlsFiles

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_SOON_S: Final = 30 * 24 * 3_600


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises ListenerFileUnusable. That a certificate has expired is no error here: see
    `certificate_warning`."""
    for key, path in (("certificate", files.certificate), ("key", files.key)):
        _read(key, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[files.min_version]
    # A client could make us do handshake after handshake on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_pair(context, files)
    if files.client_ca is not None:
        _read("client_ca", files.client_ca)
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise ListenerFileUnusable(
                "client_ca",
                f"client_ca: {files.client_ca} has no certificate in PEM",
                "Give the certificate of the CA that signs the clients', as -----BEGIN CERTIFICATE",
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def certificate_warning(files: TlsFiles, now_s: float) -> str | None:
    """Why clients will refuse the certificate, now or within 30 days; None: they will not.

    No error, for a gateway must come up after a power cut with the wrong time on its clock. The
    certificate is tried in a handshake with ourselves: ssl does not show one's own otherwise.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        server.load_cert_chain(files.certificate, files.key)
        client.load_verify_locations(files.certificate)
        certificate = _shake_hands(server, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return f"{files.certificate} has expired. Renew it, and send SIGHUP"
        if error.verify_code == _NOT_YET_VALID:
            return f"{files.certificate} is not valid yet. Look at this machine's clock"
        return None
    except (OSError, ssl.SSLError):
        return None
    left_s = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - now_s
    if left_s < _SOON_S:
        return f"{files.certificate} expires in {max(0, left_s) // 86_400:.0f} days. Renew it"
    return None


def _read(key: str, path: Path) -> None:
    """`ssl` would only say that some file is not there."""
    try:
        path.read_bytes()
    except OSError as error:
        raise ListenerFileUnusable(
            key,
            f"{key}: {path} cannot be read: {error.strerror or error}",
            "Give a PEM file that exists and that this user may read",
        ) from error


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    asked = []

    def password() -> str:
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(files.certificate, files.key, password)
    except ssl.SSLError as error:
        if asked:
            raise ListenerFileUnusable(
                "key",
                f"key: {files.key} is encrypted, and nobody is there to give its password",
                f"Decrypt it with: openssl pkey -in {files.key} -out KEY, and set its mode to 600",
            ) from error
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ListenerFileUnusable(
                "key",
                f"key: {files.key} is not the key of {files.certificate}",
                "Give the key that the certificate was made with; in a chain the server's own "
                "certificate comes first",
            ) from error
        is_certificate = _has_certificate(files.certificate)
        key, path = ("key", files.key) if is_certificate else ("certificate", files.certificate)
        what = "private key" if is_certificate else "certificate"
        raise ListenerFileUnusable(
            key,
            f"{key}: {path} has no {what} in PEM",
            f"A PEM file has a line -----BEGIN {what.upper()}-----",
        ) from error
    except OSError as error:
        raise ListenerFileUnusable(
            "certificate", f"certificate: {files.certificate}: {error.strerror}", "Try again"
        ) from error


def _has_certificate(path: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ssl.SSLError):
        return False
    return True


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, object]:
    """The server's certificate as the client sees it. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server, server_hostname="x"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return dict(sides[0].getpeercert() or {})
