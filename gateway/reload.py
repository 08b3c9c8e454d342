"""What a new configuration changes, and which of it can change while the gateway runs.

Owns the comparison only; gateway/app.py applies it. Live: routes, limits of MQTT, upstreams,
sources, retention, the log level, and of listeners all but where they are. Not live: listeners that
come or go, their addresses and kind, the data directory, partitions, streams and the log's limits,
for memory, files and every partition's place follow from them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.config import GatewayConfig
from gateway.listeners import ListenerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadPlan:
    """`live` and `at_restart` name keys as the file does; `config` is what is in force after it."""

    config: GatewayConfig
    live: tuple[str, ...]
    at_restart: tuple[str, ...]


def plan_reload(old: GatewayConfig, new: GatewayConfig) -> ReloadPlan:
    """What of `new` takes effect now, and what has to wait for a restart."""
    at_restart = [
        key
        for key, changed in (
            ("listen", old.listen != new.listen),
            ("data", old.data != new.data),
            ("[log]", old.log != new.log),
            ("[stream]", _shapes(old) != _shapes(new)),
        )
        if changed
    ]
    listeners, waiting = _listeners(old, new)
    at_restart += waiting
    known = {stream.name for stream in old.streams}
    # A route to a stream that exists only after a restart has to wait with it.
    routes_wait = any(route.stream not in known for route in new.routes)
    if routes_wait:
        at_restart.append("[[route]]")
    retention = {stream.name: stream.retention for stream in new.streams}
    streams = tuple(
        replace(stream, retention=retention.get(stream.name, stream.retention))
        for stream in old.streams
    )
    config = replace(
        new,
        listen=old.listen,
        listeners=listeners,
        data=old.data,
        log=old.log,
        streams=streams,
        routes=old.routes if routes_wait else new.routes,
    )
    live = tuple(
        key
        for key, changed in (
            ("[[route]]", old.routes != config.routes),
            ("[listener]", old.listeners != config.listeners),
            ("[limits]", old.limits != config.limits),
            ("[upstream]", old.upstreams != config.upstreams),
            ("[source]", old.sources != config.sources),
            ("retention", old.streams != config.streams),
            ("sys_interval", old.sys_interval_s != config.sys_interval_s),
            ("log_level", old.log_level != config.log_level),
        )
        if changed
    )
    return ReloadPlan(config=config, live=live, at_restart=tuple(at_restart))


def _listeners(
    old: GatewayConfig, new: GatewayConfig
) -> tuple[tuple[ListenerConfig, ...], list[str]]:
    """The listeners after the reload, and the tables that wait for a restart."""
    wanted = {each.name: each for each in new.listeners}
    after = []
    waiting = {
        f"[listener.{name}]" for name in wanted.keys() - {each.name for each in old.listeners}
    }
    for before in old.listeners:
        now = wanted.get(before.name)
        if now is not None and _kind(now) == _kind(before):
            after.append(now)
        else:
            after.append(before)
            waiting.add(f"[listener.{before.name}]")
    return tuple(after), sorted(waiting)


def _kind(listener: ListenerConfig) -> tuple[object, ...]:
    return listener.place, listener.proxy_protocol, listener.mode


def _shapes(config: GatewayConfig) -> dict[str, int]:
    return {stream.name: stream.partition_count for stream in config.streams}
