"""TLS between a socket and MQTT: encrypted bytes in, plain bytes out, and the other way round.

Owns one side of one TLS connection in memory (OpenSSL through `ssl.SSLObject`). Sans-I/O, so one
transport serves every kind of listener, with the same limits, time-outs and backpressure; and less
memory than asyncio's own, which keeps a buffer of 256 KiB a connection.

Not imported before a listener speaks TLS.
"""

import ssl
from typing import Any

from gateway.mqtt.errors import TransportError

_RECORD_BYTES_MAX = 16_384


class TlsLayer:
    """A `gateway.mqtt.layered.Layer`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_open = False
        self.is_closed = False

    def receive(self, data: bytes) -> bytes:
        self._incoming.write(data)
        try:
            if not self.is_open:
                self._tls.do_handshake()
                self.is_open = True
            return self._read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            self.is_open = False
            raise TransportError(f"TLS: {_said(error)}") from error

    def wrap(self, data: bytes) -> bytes:
        if not self.is_open:
            return b""  # a refusal of who has not even shaken hands
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError:
            # The peer's last words were an error, which `receive` has raised.
            self.is_open = False
        return self._outgoing.read()

    def take_output(self) -> bytes:
        return self._outgoing.read()

    def last_words(self) -> bytes:
        """close_notify: what came before it is all there was."""
        if self.is_open:
            self.is_open = False
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it wants the peer's own close_notify, for which nobody waits
        return self._outgoing.read()

    @property
    def certificate_name(self) -> str | None:
        """CN of the client's certificate, when the listener verifies them."""
        certificate = self._tls.getpeercert()
        if not certificate:
            return None
        # ((("countryName", "AT"),), (("commonName", "press-7"),)); typeshed knows it less well.
        subject: Any = certificate.get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        return str(names[0]) if names else None

    def _read(self) -> bytes:
        chunks = []
        try:
            while chunk := self._tls.read(_RECORD_BYTES_MAX):
                chunks.append(chunk)
            self.is_closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_closed = True
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _said(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
