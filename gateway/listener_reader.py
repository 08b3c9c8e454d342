"""The [listener.NAME] tables of the configuration.

    [listener.plant]                      # any number, beside `listen`
    url = "mqtts://0.0.0.0:8883"          # or mqtt://, ws://HOST:PORT/PATH, wss://, unix:///PATH
    certificate = "server.pem"            # mqtts and wss; the chain, the server's own first
    key = "server.key"
    client_ca = "plant-ca.pem"            # clients must have a certificate that it signed
    min_version = "1.3"                   # default "1.2"
    certificate_user_name = true          # the CN of that certificate is the user name
    anonymous = false                     # default true
    password_file = "passwords"           # of mosquitto_passwd
    proxy_protocol = true                 # a PROXY v2 header comes first
    origins = ["https://hmi.plant"]       # ws and wss: pages that may connect; default all
    mode = "0660"                         # unix: the permissions of the socket
    connections_max = 500                 # these three: for this listener alone
    connections_per_address_max = 20
    connect_rate_max = 50                 # a second

Files are looked at here, so that what is wrong with them is found before anything is started.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gateway.config_reader import Table
from gateway.errors import ListenerFileUnusable, UrlInvalid
from gateway.limits import MqttLimits
from gateway.listeners import DEFAULT_LISTENER, ListenerConfig, Place, TlsFiles
from gateway.ranges import range_of
from gateway.urls import parse_place
from log.streams import name_problem

_EXAMPLE: Final = "mqtts://0.0.0.0:8883"
_VERSIONS: Final = ("1.2", "1.3")
_OF_TLS: Final = ("certificate", "key", "client_ca", "min_version", "certificate_user_name")


def read_listeners(parent: Table, default: Place | None) -> Iterator[ListenerConfig]:
    """Those that are sound enough; what is wrong with the others is reported."""
    seen = [] if default is None else [default]
    for name, table in parent.tables():
        if name_problem(name) or name == DEFAULT_LISTENER:
            parent.problem(
                name,
                f"{name!r} is no name for a listener",
                "Letters, digits, dots, dashes, underscores; and not 'default', which is `listen`",
            )
        listener = _listener(name, table)
        table.close()
        if listener is not None:
            _check_place(table, listener.place, seen)
            seen.append(listener.place)
            yield listener


def _listener(name: str, table: Table) -> ListenerConfig | None:
    place = _place(table)
    folder = table.document.path.parent
    tls = _tls(table, folder, place)
    password_file = _path(table, "password_file", folder)
    anonymous = table.boolean("anonymous", True)
    certificate_user_name = table.boolean("certificate_user_name", False)
    if certificate_user_name and (tls is None or tls.client_ca is None):
        table.problem(
            "certificate_user_name",
            "certificate_user_name = true, but nobody's certificate is verified",
            'Give client_ca = "FILE" of the CA that signs the clients\' certificates',
        )
    if not anonymous and password_file is None and not certificate_user_name:
        table.problem(
            "anonymous",
            "anonymous = false, but there is nothing to know anybody by",
            'Give password_file = "FILE" (of mosquitto_passwd), or certificate_user_name = true',
        )
    if password_file is not None:
        from gateway.passwords import read_password_file

        try:
            read_password_file(password_file)
        except ListenerFileUnusable as error:
            table.problem(error.key, error.wrong, error.right)
    proxy_protocol = table.boolean("proxy_protocol", False)
    origins = table.strings("origins", ())
    mode = _mode(table)
    limits = {
        each: _limit(table, each)
        for each in ("connections_max", "connections_per_address_max", "connect_rate_max")
    }
    if place is None:
        return None
    _check_kind(table, place)
    return ListenerConfig(
        name=name,
        place=place,
        tls=tls,
        anonymous=anonymous,
        password_file=password_file,
        certificate_user_name=certificate_user_name,
        proxy_protocol=proxy_protocol,
        origins=origins,
        mode=mode,
        **limits,
    )


def _place(table: Table) -> Place | None:
    if not table.has("url"):
        table.problem("url", "this listener has no url", f'Write url = "{_EXAMPLE}"')
    url = table.string("url", "", example=_EXAMPLE)
    try:
        return parse_place(url) if url else None
    except UrlInvalid as error:
        table.problem("url", f"url = {url!r} is no place to listen", str(error))
        return None


def _tls(table: Table, folder: Path, place: Place | None) -> TlsFiles | None:
    certificate = _path(table, "certificate", folder)
    key = _path(table, "key", folder)
    client_ca = _path(table, "client_ca", folder)
    min_version = table.string("min_version", _VERSIONS[0], example=_VERSIONS[0])
    if min_version not in _VERSIONS:
        table.problem(
            "min_version", f"min_version = {min_version!r} is unknown", 'Write "1.2" or "1.3"'
        )
        return None
    if place is None or not place.is_tls:
        return None
    if certificate is None or key is None:
        missing = "certificate" if certificate is None else "key"
        table.problem(
            "url",
            f"{place.scheme}:// needs a {missing}",
            f'Write {missing} = "FILE", in PEM',
        )
        return None
    files = TlsFiles(certificate=certificate, key=key, client_ca=client_ca, min_version=min_version)
    # Not without need: OpenSSL takes memory.
    from gateway.tls import server_context

    try:
        server_context(files)
    except ListenerFileUnusable as error:
        table.problem(error.key, error.wrong, error.right)
    return files


def _path(table: Table, key: str, folder: Path) -> Path | None:
    text = table.string(key, "", example=f"/etc/sluicegate/{key}")
    # An absolute path stays what it is.
    return folder / text if text else None


def _mode(table: Table) -> int:
    text = table.string("mode", "0660", example="0660")
    if not re.fullmatch(r"0?[0-7]{3}", text):
        table.problem("mode", f"mode = {text!r} is no mode", 'Three octal digits, as mode = "0660"')
        return 0o660
    return int(text, 8)


def _limit(table: Table, name: str) -> int | None:
    if not table.has(name):
        table.value(name)
        return None
    bounds = range_of(MqttLimits, name)
    return table.integer(name, 1, least=bounds.least, most=bounds.most, right=str(bounds))


def _check_kind(table: Table, place: Place) -> None:
    """Keys that say nothing for this kind of listener are mistakes."""
    for keys, is_meant, kinds in (
        (_OF_TLS, place.is_tls, "mqtts:// or wss://"),
        (("origins",), place.is_websocket, "ws:// or wss://"),
        (("mode",), place.is_unix, "unix://"),
        (("connections_per_address_max",), not place.is_unix, "anything but unix://"),
    ):
        for key in keys:
            if table.has(key) and not is_meant:
                table.problem(
                    key,
                    f"{key} means nothing for a {place.scheme}:// listener",
                    f"Remove it, or write url = {kinds}",
                )


def _check_place(table: Table, place: Place, seen: Sequence[Place]) -> None:
    for other in seen:
        is_same = (
            place.path == other.path
            if place.is_unix and other.is_unix
            else not (place.is_unix or other.is_unix) and place.address == other.address
        )
        if is_same and (place.is_unix or place.address.port):
            table.problem(
                "url", f"url = '{place}' is taken by '{other}'", "Give each listener its own port"
            )
