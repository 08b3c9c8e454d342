"""PROXY protocol version 2: the first bytes of a connection say where it really comes from.

Owns the header (section 2.2 of HAProxy's proxy-protocol.txt), and nothing behind it. Only for
listeners that a proxy alone can reach: whoever connects can say anything here. Sans-I/O.

    0   12   0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A
    12   1   version 2 (high four bits), command: 0 LOCAL, 1 PROXY
    13   1   family: 1 IPv4, 2 IPv6, 3 Unix (high four bits), 1 stream
    14   2   length of what follows
    16       addresses: source, destination (4, 16 or 108 bytes each), ports (2 bytes each); TLVs
"""

import ipaddress
from typing import NamedTuple

from gateway.mqtt.errors import TransportError

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES = 16
_LOCAL = 0x20
_COMMANDS = (b"", b"\x20", b"\x21")
_UNSPECIFIED = 0x00
_TCP_4 = 0x11
_TCP_6 = 0x21
_UNIX = 0x31
_ADDRESS_BYTES = {_UNSPECIFIED: 0, _TCP_4: 12, _TCP_6: 36, _UNIX: 216}

HEADER_BYTES_MAX = 2_048
"""Addresses take 216 bytes at most; the rest are TLVs, of which proxies send a few hundred."""


class Source(NamedTuple):
    """Where the connection comes from; host "" when the header does not say."""

    host: str
    port: int


class Found(NamedTuple):
    source: Source
    size: int
    """Bytes of the header: what follows it is the client's."""


def find_header(data: bytes) -> Found | None:
    """None: `data` is not all of the header. Raises TransportError when it is none."""
    command = data[12:13]
    if not _SIGNATURE.startswith(data[:12]) or command not in _COMMANDS:
        raise TransportError("no PROXY protocol version 2 header")
    if len(data) < _FIXED_BYTES:
        return None
    family = data[13]
    size = _FIXED_BYTES + int.from_bytes(data[14:16])
    if size > HEADER_BYTES_MAX:
        raise TransportError(f"PROXY header of {size} bytes")
    if data[12] == _LOCAL:
        family = _UNSPECIFIED  # the proxy's own health check: its addresses do not count
    elif family not in _ADDRESS_BYTES:
        raise TransportError(f"PROXY header of unknown family 0x{family:02x}")
    if size - _FIXED_BYTES < _ADDRESS_BYTES[family]:
        raise TransportError("PROXY header without room for its addresses")
    if len(data) < size:
        return None
    return Found(_source(family, data), size)


def _source(family: int, data: bytes) -> Source:
    if family == _TCP_4:
        return Source(str(ipaddress.IPv4Address(data[16:20])), int.from_bytes(data[24:26]))
    if family == _TCP_6:
        address = ipaddress.IPv6Address(data[16:32])
        return Source(str(address.ipv4_mapped or address), int.from_bytes(data[48:50]))
    return Source("", 0)
