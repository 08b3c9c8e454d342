"""What the tests of listeners share: a gateway with listeners, and clients of every kind."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from tests.e2e.raw_mqtt import RawClient
from tests.rigs import GatewayProcess, free_port


class WrappedClient(RawClient):
    """A RawClient on a socket that is connected already: TLS, or Unix, or behind a header."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._file = connected.makefile("rb")


def tcp(port: int, *, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def trusting(ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client's context that trusts `ca`, and shows a certificate where it is given one."""
    context = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def tls(port: int, context: ssl.SSLContext, host: str = "gateway.test") -> ssl.SSLSocket:
    return context.wrap_socket(tcp(port), server_hostname=host)


def gateway_with(folder: Path, *tables: str, head: str = "") -> GatewayProcess:
    """A gateway, not started, with these [listener] tables beside its default listener."""
    config = folder / "gateway.toml"
    config.write_text("\n".join((head, *tables)))
    return GatewayProcess(folder / "data", config=config)


def listener(
    name: str, scheme: str, port: int | None = None, path: str = "", **keys: object
) -> str:
    """The text of a [listener] table. Values are written as TOML."""
    url = f"{scheme}://127.0.0.1:{port or free_port()}{path}" if scheme != "unix" else path
    lines = [f"[listener.{name}]", f'url = "{url}"']
    for key, value in keys.items():
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, int | list):
            text = repr(value)
        else:
            text = f'"{value}"'
        lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"
