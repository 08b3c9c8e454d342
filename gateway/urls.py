"""The addresses a person writes: mqtt://HOST:PORT and its kin, kafka://HOST:PORT[,HOST:PORT]."""

from __future__ import annotations

import ipaddress

from bridge.config import Address
from gateway.errors import UrlInvalid
from gateway.limits import DEFAULT_MQTT_PORT
from gateway.listeners import Place

_DEFAULT_KAFKA_PORT = 9092
_PORTS = {"mqtt": DEFAULT_MQTT_PORT, "mqtts": 8883, "ws": 80, "wss": 443}
_EXAMPLES = {
    "mqtt": "mqtt://0.0.0.0:1883",
    "mqtts": "mqtts://0.0.0.0:8883",
    "ws": "ws://0.0.0.0:8080/mqtt",
    "wss": "wss://0.0.0.0:8443/mqtt",
    "unix": "unix:///run/sluicegate/mqtt.sock",
}
_UNIX_PATH_BYTES_MAX = 107
_DEFAULT_MQTTS_PORT = 8883


def parse_listen(url: str) -> Address:
    """The default listener. Raises UrlInvalid."""
    if url.partition("://")[0] in _EXAMPLES.keys() - {"mqtt"}:
        raise UrlInvalid(
            f"{url!r}: only mqtt:// can stand here. Give it a [listener.NAME] table of its own, "
            f'with url = "{url}"'
        )
    return _split(url, _after_scheme(url, "mqtt", "mqtt://127.0.0.1:1883"), DEFAULT_MQTT_PORT, 0)


def parse_place(url: str) -> Place:
    """The url of a [listener.NAME]. Raises UrlInvalid."""
    scheme, separator, rest = url.partition("://")
    example = _EXAMPLES.get(scheme)
    if not separator or example is None:
        known = ", ".join(f"{each}://" for each in _EXAMPLES)
        raise UrlInvalid(f"{url!r} begins with none of {known}. Write {_EXAMPLES['mqtt']}")
    if scheme == "unix":
        if not rest.startswith("/") or len(rest.encode()) > _UNIX_PATH_BYTES_MAX or "\0" in rest:
            raise UrlInvalid(
                f"{url!r} names no absolute path of up to {_UNIX_PATH_BYTES_MAX} bytes. "
                f"Write it as {example}"
            )
        return Place(scheme=scheme, path=rest)
    host, slash, path = rest.partition("/")
    if scheme in ("ws", "wss"):
        if any(each in path for each in "?# "):
            raise UrlInvalid(f"{url!r} has more than a path. Write it as {example}")
    elif path:
        raise UrlInvalid(f"{url!r}: {scheme}:// has no path. Write it as {example}")
    bare = _after_scheme(f"{scheme}://{host}", scheme, example)
    # ws://HOST:PORT serves every path, ws://HOST:PORT/ only that one.
    served = slash + path if scheme in ("ws", "wss") else ""
    return Place(scheme=scheme, address=_split(url, bare, _PORTS[scheme], 0), path=served)


def parse_upstream(url: str) -> tuple[Address, ...]:
    """Raises UrlInvalid."""
    rest = _after_scheme(url, "kafka", "kafka://kafka-1:9092,kafka-2:9092")
    return tuple(_split(url, each, _DEFAULT_KAFKA_PORT, 1) for each in rest.split(","))


def parse_source(url: str) -> tuple[Address, bool]:
    """mqtt:// or mqtts:// of another broker, and whether it is TLS. Raises UrlInvalid."""
    is_tls = url.startswith("mqtts://")
    scheme, port = ("mqtts", _DEFAULT_MQTTS_PORT) if is_tls else ("mqtt", DEFAULT_MQTT_PORT)
    example = "mqtt://broker-1:1883 or mqtts://broker-1:8883"
    return _split(url, _after_scheme(url, scheme, example), port, 1), is_tls


def is_loopback(host: str) -> bool:
    """Nothing but this machine reaches it; a name other than localhost counts as the network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _after_scheme(url: str, wanted: str, example: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UrlInvalid(f"{url!r} does not begin with {wanted}://. Write it as {example}")
    if scheme != wanted:
        raise UrlInvalid(f"{url!r}: {scheme}:// is not supported here. Write it as {example}")
    rest = rest.rstrip("/")
    if not rest or any(each in rest for each in "/?#@ "):
        raise UrlInvalid(f"{url!r} has no host and port, or more than that. Write it as {example}")
    return rest


def _split(url: str, text: str, default_port: int, port_min: int) -> Address:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise UrlInvalid(f"{url!r}: an IPv6 address stands in brackets. Write it as [::1]:1883")
        port = port[1:]
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise UrlInvalid(f"{url!r}: an IPv6 address stands in brackets. Write it as [::1]:1883")
    if not host:
        raise UrlInvalid(f"{url!r} names no host. Write 0.0.0.0 for every interface")
    if not port:
        return Address(host=host, port=default_port)
    if not port.isascii() or not port.isdigit() or not port_min <= int(port) <= 65535:
        raise UrlInvalid(f"{url!r}: {port!r} is no port. A port is a number up to 65535")
    return Address(host=host, port=int(port))
