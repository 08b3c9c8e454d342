"""What of this machine the gateway takes at its start: an address and a data directory.

Owns turning the system's refusals into sentences that say what to do.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from dataclasses import replace
from pathlib import Path

from bridge.config import Address
from gateway.config import GatewayConfig
from gateway.errors import DataUnusable, ListenFailed
from gateway.mqtt.dead_letters import DEAD_LETTERS, DEAD_LETTERS_SPEC
from log import Log, LogError, LogFull, LogLocked, StreamSpec

_log = logging.getLogger(__name__)

_BACKLOG_MAX = 1024
"""Connections the kernel completes before we take them: a fleet that reconnects all at once."""


def bind(address: Address, url: str = "") -> socket.socket:
    """A listening socket; `url` is how a person wrote it. Raises ListenFailed."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # A restart must not wait a minute for the old connections' TIME_WAIT.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            # The kernel says "in use" of a port with SO_REUSEADDR only here.
            listener.listen(_BACKLOG_MAX)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ListenFailed(
            f"{url or f'mqtt://{address}'}: {_why_not_bound(error, address)}"
        ) from error
    listener.setblocking(False)
    return listener


def bind_unix(path: Path, mode: int) -> socket.socket:
    """A listening Unix socket with these permissions; a file that a killed gateway has left is
    replaced. Raises ListenFailed."""
    url = f"unix://{path}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _remove_stale(path, url)
        # Never more open than it is meant to be, not even between bind and chmod.
        umask = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        path.chmod(mode)
        listener.listen(_BACKLOG_MAX)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenFailed(
                f"{url}: there is a file of that name, and it is no socket. "
                "Remove it, or give another path"
            ) from error
        raise ListenFailed(
            f"{url}: {error.strerror}. Give a path in a directory that exists and that this user "
            "may write"
        ) from error
    except ListenFailed:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _remove_stale(path: Path, url: str) -> None:
    """Nobody answers there any more; else raises ListenFailed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody has it
    raise ListenFailed(
        f"{url}: another program listens there (maybe another gateway). "
        "Stop that one, or give another path"
    )


def _why_not_bound(error: OSError, address: Address) -> str:
    if isinstance(error, socket.gaierror):
        return (
            f"no such host ({error.strerror}). "
            "Listen on an address of this machine, or on 0.0.0.0 for all of them"
        )
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} is in use by another program (maybe another MQTT broker). "
            "Stop that one, or give another address (--listen, or the listener's url)"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "this machine has no such address. "
            "Listen on one that it has, or on 0.0.0.0 for all of them"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"this user may not listen on port {address.port}. Ports from 1024 on are free to all"
        )
    return f"cannot listen ({error.strerror}). Give another address"


def open_log(config: GatewayConfig) -> Log:
    """Makes the data directory where it is not, and recovers the log. Raises DataUnusable."""
    data = config.data
    _prepare(data)
    try:
        log = Log.open(
            data,
            _with_dead_letters(stream_specs(config)),
            limits=config.log,
        )
    except LogLocked as error:
        raise DataUnusable(
            f"{data} is in use by another gateway ({error}). "
            "Stop that one, or give this one another --data"
        ) from error
    except LogFull as error:
        raise DataUnusable(
            f"{data}: the disk is full ({error}). Free some room, or give another --data"
        ) from error
    except (LogError, OSError) as error:
        raise DataUnusable(f"{data}: the log cannot be opened: {error}") from error
    _report(log)
    return log


def stream_specs(config: GatewayConfig) -> tuple[StreamSpec, ...]:
    """The streams as the log takes them: retention waits for each upstream that ships a stream.

    An upstream's cursor has its name.
    """
    return tuple(
        replace(
            stream,
            replicated_by=frozenset(
                upstream.name
                for upstream in config.upstreams
                if upstream.streams is None or stream.name in upstream.streams
            ),
        )
        for stream in config.streams
    )


def _with_dead_letters(specs: tuple[StreamSpec, ...]) -> tuple[StreamSpec, ...]:
    """As it is configured, if it is: then it is a stream like others."""
    if any(spec.name == DEAD_LETTERS for spec in specs):
        return specs
    return (*specs, DEAD_LETTERS_SPEC)


def _report(log: Log) -> None:
    """Recovery is always said, and damage as a warning: it is a value, not an exception."""
    found = log.recovery
    _log.info(
        "log.recovered frames=%d records=%d torn_frame=%s clean=%s",
        found.frames_replayed,
        found.records_replayed,
        found.torn_frame,
        found.clean,
    )
    for line in found.lines():
        _log.warning("log.recovery_found what=%s", line)


def _prepare(data: Path) -> None:
    try:
        data.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise DataUnusable(
            f"the data directory {data} cannot be made ({error.strerror}). "
            "Make it for this user, or give another --data"
        ) from error
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        raise DataUnusable(
            f"the data directory {data} cannot be written by this user. "
            "Change its owner, or give another --data"
        )
