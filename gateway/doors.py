"""The listeners of a gateway: their sockets, and the doors that stand in them.

Owns what a listener needs of this machine: address or socket file, certificates, passwords. A
reload prepares everything anew before it changes anything: where a file cannot be read (no
descriptor left, CVE-2017-7652), all of the old stays in force.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.listeners import ListenerConfig
from gateway.mqtt.authentication import Authenticator
from gateway.mqtt.door import Door
from gateway.mqtt.server import Server
from gateway.places import bind, bind_unix
from gateway.urls import is_loopback

if TYPE_CHECKING:
    from ssl import SSLContext

    from gateway.passwords import Worker

_log = logging.getLogger(__name__)


class Doors:
    """`bind`, then `open`; `close` at the end, when the server has stopped."""

    def __init__(self, listeners: tuple[ListenerConfig, ...], worker: Worker) -> None:
        self._worker = worker
        self._sockets: dict[str, socket.socket] = {}
        self._doors: dict[str, Door] = {}
        self._prepared = self.prepare(listeners)
        self._ports: dict[str, int] = {}

    def bind(self) -> None:
        """Takes the addresses. Raises ListenFailed; `close` gives back what was taken."""
        for name, (config, _, _) in self._prepared.items():
            place = config.place
            self._sockets[name] = (
                bind_unix(Path(place.path), config.mode)
                if place.is_unix
                else bind(place.address, str(place))
            )

    async def open(self, server: Server, now_s: float) -> None:
        """Clients can come from now on."""
        for name, (config, tls, authenticator) in self._prepared.items():
            door = self._doors[name] = Door(config, tls=tls, authenticator=authenticator)
            self._ports[name] = await server.start(self._sockets[name], door)
            _warn(config, now_s)

    def prepare(
        self, listeners: tuple[ListenerConfig, ...]
    ) -> Mapping[str, tuple[ListenerConfig, SSLContext | None, Authenticator | None]]:
        """Reads every file that the listeners name. Raises ListenerFileUnusable."""
        return {
            config.name: (config, _context(config), _authenticator(config, self._worker))
            for config in listeners
        }

    def replace(
        self,
        prepared: Mapping[str, tuple[ListenerConfig, SSLContext | None, Authenticator | None]],
        now_s: float,
    ) -> None:
        """For the connections to come; those that are open stay as they are."""
        for name, (config, tls, authenticator) in prepared.items():
            door = self._doors[name]
            door.config, door.tls, door.authenticator = config, tls, authenticator
            _warn(config, now_s)

    def urls(self) -> str:
        """Where it listens, with the ports that were really bound."""
        places = []
        for name, door in self._doors.items():
            place = door.config.place
            address = replace(place.address, port=self._ports[name])
            places.append(str(replace(place, address=address)))
        return " ".join(places)

    def close(self) -> None:
        """Gives the addresses back."""
        for name, listener in self._sockets.items():
            listener.close()
            place = self._prepared[name][0].place
            if place.is_unix:
                Path(place.path).unlink(missing_ok=True)


def _context(config: ListenerConfig) -> SSLContext | None:
    if config.tls is None:
        return None
    from gateway.tls import server_context

    return server_context(config.tls)


def _authenticator(config: ListenerConfig, worker: Worker) -> Authenticator | None:
    if config.anonymous and config.password_file is None and not config.certificate_user_name:
        return None
    # Not without need: it takes memory.
    from gateway.passwords import PasswordAuthenticator, read_password_file

    path = config.password_file
    return PasswordAuthenticator(
        None if path is None else read_password_file(path),
        worker,
        anonymous=config.anonymous,
        certificate_user_name=config.certificate_user_name,
    )


def _warn(config: ListenerConfig, now_s: float) -> None:
    """What works, but maybe not as it is meant."""
    if config.tls is not None:
        from gateway.tls import certificate_warning

        if text := certificate_warning(config.tls, now_s):
            _log.warning("tls.certificate listener=%s right=%s", config.name, text)
    place = config.place
    if place.is_unix or is_loopback(place.address.host):
        return
    is_anybody = config.anonymous and (config.tls is None or config.tls.client_ca is None)
    if is_anybody or config.tls is None:
        open_to = "anybody is let in" if is_anybody else "passwords are sent"
        encrypted = "" if config.tls else ", and nothing is encrypted"
        _log.warning(
            "gateway.open_to_the_network listen=%s right=keep it to a closed network: %s%s; "
            "see docs/listeners.md",
            place,
            open_to,
            encrypted,
        )
