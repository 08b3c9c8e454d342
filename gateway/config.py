"""The configuration: TOML once, then frozen objects that are passed down.

    listen = "mqtt://127.0.0.1:1883"
    data = "/var/lib/sluicegate"
    log_level = "info"
    sys_interval = 10                 # seconds between the values under $SYS; 0: none

    [listener.plant]                  # any number: TLS, WebSocket ...; see listener_reader.py
    url = "mqtts://0.0.0.0:8883"

    [stream.mqtt]                     # any number; what Kafka calls a topic
    partitions = 3
    retention_bytes = "2 GiB"         # of each partition; default: no bound
    retention_age = "7 days"          # default: no bound
    keep_unreplicated = true          # retention waits for the upstreams

    [[route]]                         # the first whose filter matches
    filter = "plant/+/telemetry"
    stream = "mqtt"
    key = "client-id"                 # or "topic-level:1" (plant is level 0) or "constant:x"

    [upstream.central]
    url = "kafka://kafka-1:9092,kafka-2:9092"
    streams = ["mqtt"]                # default: all
    topic = "{stream}"                # may hold {stream}, {site} and {gateway}
    linger_ms = 50                    # how long a live record may wait for company
    replication_factor = 3            # of topics it makes; default: the cluster's

    [source.plant]                    # an MQTT broker to subscribe to: gateway/sources/config.py
    url = "mqtt://broker-1:1883"

    [limits]                          # the names of gateway/limits.py
    [log]                             # the names of log/limits.py

What no route matches goes to the stream `mqtt` by client id. Flags override the file. Never reads
the environment except in `default_data_directory`, which is given it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bridge.config import Address, UpstreamConfig
from bridge.errors import ConfigError
from bridge.limits import BridgeLimits
from gateway.config_reader import Document, Table
from gateway.errors import UrlInvalid, UsageInvalid
from gateway.limits import DEFAULT_MQTT_PORT, MqttLimits
from gateway.listener_reader import read_listeners
from gateway.listeners import ListenerConfig, Place, plain_listener
from gateway.mqtt.errors import TopicFilterInvalid
from gateway.mqtt.topics import check_topic_filter
from gateway.ranges import check_bridge, check_together, range_of
from gateway.routing import ClientIdKey, Key, RouteRule, parse_key
from gateway.sources.config import SourceConfig, read_sources
from gateway.urls import parse_listen, parse_upstream
from log.limits import LogLimits
from log.streams import Retention, StreamSpec, name_problem

DEFAULT_STREAM: Final = "mqtt"
DEFAULT_PARTITION_COUNT: Final = 3
PARTITION_COUNT_MAX: Final = 1_000
DEFAULT_LISTEN: Final = Address(host="127.0.0.1", port=DEFAULT_MQTT_PORT)
DEFAULT_UPSTREAM: Final = "central"
_DEFAULT_STREAM_SPEC: Final = StreamSpec(
    name=DEFAULT_STREAM, partition_count=DEFAULT_PARTITION_COUNT
)
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Everything the composition root needs; what the file does not say is at its default."""

    data: Path
    listen: Address | None = DEFAULT_LISTEN
    """The default listener; None where there are [listener] tables and it is not asked for."""
    listeners: tuple[ListenerConfig, ...] = ()
    log_level: str = "info"
    sys_interval_s: int = 10
    """As Mosquitto's sys_interval."""
    streams: tuple[StreamSpec, ...] = (_DEFAULT_STREAM_SPEC,)
    routes: tuple[RouteRule, ...] = ()
    upstreams: tuple[UpstreamConfig, ...] = ()
    sources: tuple[SourceConfig, ...] = ()
    limits: MqttLimits = field(default_factory=MqttLimits)
    log: LogLimits = field(default_factory=LogLimits)

    def all_listeners(self) -> tuple[ListenerConfig, ...]:
        """With the default one."""
        first = () if self.listen is None else (plain_listener(self.listen),)
        return (*first, *self.listeners)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line says; None: nothing."""

    config: Path | None = None
    listen: str | None = None
    data: Path | None = None
    upstream: str | None = None


def default_data_directory(environment: Mapping[str, str], *, is_root: bool) -> Path:
    """$STATE_DIRECTORY (systemd), /var/lib for root, else the XDG state directory."""
    if state := environment.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0])
    if is_root:
        return Path("/var/lib/sluicegate")
    home = environment.get("XDG_STATE_HOME") or str(
        Path(environment.get("HOME", "/")) / ".local" / "state"
    )
    return Path(home) / "sluicegate"


def load(flags: Flags, *, default_data: Path) -> GatewayConfig:
    """The file, if one is named, with the flags over it. Raises UsageInvalid's tree."""
    config = GatewayConfig(data=default_data)
    if flags.config is not None:
        config = read_file(flags.config, default_data=default_data)
    if flags.listen is not None:
        config = replace(config, listen=parse_listen(flags.listen))
    if flags.data is not None:
        config = replace(config, data=flags.data)
    if flags.upstream is not None:
        config = replace(config, upstreams=_override(config.upstreams, flags.upstream))
    return config


def _override(upstreams: tuple[UpstreamConfig, ...], url: str) -> tuple[UpstreamConfig, ...]:
    addresses = parse_upstream(url)
    if len(upstreams) > 1:
        names = ", ".join(upstream.name for upstream in upstreams)
        raise UsageInvalid(
            f"--upstream cannot say which of the file's upstreams it is for ({names}). "
            "Change the url in the file instead"
        )
    if not upstreams:
        return (UpstreamConfig(name=DEFAULT_UPSTREAM, bootstrap=addresses),)
    return (replace(upstreams[0], bootstrap=addresses),)


def read_file(path: Path, *, default_data: Path) -> GatewayConfig:
    """Raises ConfigInvalid with everything that is wrong in the file."""
    document = Document.read(path)
    config = _read(document, default_data)
    document.raise_problems()
    return config


def _read(document: Document, default_data: Path) -> GatewayConfig:
    root = document.root
    listen = _listen(root)
    listeners = tuple(
        read_listeners(
            root.table("listener"),
            None if listen is None else Place(scheme="mqtt", address=listen),
        )
    )
    data = Path(root.string("data", str(default_data), example="/var/lib/sluicegate"))
    log_level = _choice(root, "log_level", "info", _LOG_LEVELS)
    sys_interval_s = root.integer("sys_interval", 10, least=0, most=86_400)
    streams = _streams(root.table("stream"))
    routes = _routes(root, streams)
    streams.setdefault(DEFAULT_STREAM, _DEFAULT_STREAM_SPEC)
    upstreams = _upstreams(root.table("upstream"), streams)
    sources = read_sources(root.table("source"))
    limits = root.limits_table("limits", MqttLimits, MqttLimits(), range_of)
    log = root.limits_table("log", LogLimits, LogLimits(), range_of)
    check_together(document, limits, log)
    root.close()
    return GatewayConfig(
        listen=listen,
        listeners=listeners,
        data=data if data.is_absolute() else document.path.parent / data,
        log_level=log_level,
        sys_interval_s=sys_interval_s,
        streams=tuple(streams.values()),
        routes=routes,
        upstreams=upstreams,
        sources=sources,
        limits=limits,
        log=log,
    )


def _listen(root: Table) -> Address | None:
    if root.has("listener") and not root.has("listen"):
        root.value("listen")
        return None
    url = root.string("listen", f"mqtt://{DEFAULT_LISTEN}", example="mqtt://0.0.0.0:1883")
    try:
        return parse_listen(url)
    except UrlInvalid as error:
        root.problem("listen", f"listen = {url!r} is no address", str(error))
        return DEFAULT_LISTEN


def _choice(table: Table, key: str, default: str, choices: tuple[str, ...]) -> str:
    value = table.string(key, default, example=default)
    if value not in choices:
        table.problem(key, f"{key} = {value!r} is unknown", f"One of: {', '.join(choices)}")
        return default
    return value


def _streams(parent: Table) -> dict[str, StreamSpec]:
    streams: dict[str, StreamSpec] = {}
    for name, table in parent.tables():
        if name_problem(name):
            parent.problem(
                name,
                f"{name!r} is no name for a stream",
                "Letters, digits, dots, dashes and underscores, as in Kafka's topics",
            )
            name = DEFAULT_STREAM
        streams[name] = StreamSpec(
            name=name,
            partition_count=table.integer(
                "partitions", DEFAULT_PARTITION_COUNT, least=1, most=PARTITION_COUNT_MAX
            ),
            retention=Retention(
                bytes_max=table.quantity("retention_bytes", None, "bytes"),
                age_ms_max=table.quantity("retention_age", None, "ms"),
                keep_unreplicated=table.boolean("keep_unreplicated", True),
            ),
        )
        table.close()
    return streams


def _routes(root: Table, streams: Mapping[str, StreamSpec]) -> tuple[RouteRule, ...]:
    routes: list[RouteRule] = []
    for table in root.list_of_tables("route"):
        if not table.has("filter"):
            table.problem("filter", "this route has no filter", 'Write filter = "plant/+/temp"')
        topic_filter = table.string("filter", "#", example="plant/+/temp")
        try:
            check_topic_filter(topic_filter)
        except TopicFilterInvalid as error:
            table.problem(
                "filter",
                f"filter = {topic_filter!r} is no MQTT topic filter: {error}",
                "+ stands for one whole level, # for the rest and only at the end",
            )
        stream = table.string("stream", DEFAULT_STREAM, example=DEFAULT_STREAM)
        if stream != DEFAULT_STREAM and stream not in streams:
            known = ", ".join(sorted({*streams, DEFAULT_STREAM}))
            table.problem(
                "stream",
                f"stream = {stream!r} is not defined",
                f"Add [stream.{stream}], or use one of: {known}",
            )
        routes.append(RouteRule(topic_filter=topic_filter, stream=stream, key=_key(table)))
        table.close()
    return tuple(routes)


def _key(table: Table) -> Key:
    text = table.string("key", "client-id", example="client-id")
    try:
        return parse_key(text)
    except ValueError:
        table.problem(
            "key",
            f"key = {text!r} says no key",
            'Write "client-id", "topic-level:N" (N counts from 0) or "constant:TEXT"',
        )
        return ClientIdKey()


def _upstreams(parent: Table, streams: Mapping[str, StreamSpec]) -> tuple[UpstreamConfig, ...]:
    upstreams = (_upstream(name, table, streams) for name, table in parent.tables())
    return tuple(upstream for upstream in upstreams if upstream is not None)


def _upstream(name: str, table: Table, streams: Mapping[str, StreamSpec]) -> UpstreamConfig | None:
    example = "kafka://kafka-1:9092"
    if not table.has("url"):
        table.problem("url", "this upstream has no url", f'Write url = "{example}"')
    url = table.string("url", example, example=example)
    wanted = table.strings("streams", ())
    for each in wanted:
        if each not in streams:
            known = ", ".join(sorted(streams))
            table.problem("streams", f"stream {each!r} is not defined", f"One of: {known}")
    options: dict[str, Any] = {
        "topic_template": table.string("topic", "{stream}", example="{site}.{stream}"),
        "site": table.string("site", "", example="plant-7"),
        "gateway": table.string("gateway", "", example="gw-1"),
        "linger_ms": table.integer("linger_ms", 50, most=60_000),
        "replication_factor": table.integer("replication_factor", 0, least=1, most=100) or None,
        "limits": table.limits_table("limits", BridgeLimits, BridgeLimits(), range_of),
    }
    check_bridge(table.table("limits"), options["limits"])
    table.close()
    try:
        addresses = parse_upstream(url)
    except UrlInvalid as error:
        table.problem("url", f"url = {url!r} is no address", str(error))
        return None
    try:
        upstream = UpstreamConfig(
            name=name, bootstrap=addresses, streams=frozenset(wanted) or None, **options
        )
        shipped = [each for each in streams if not wanted or each in wanted]
        topics = {upstream.topic_for(each) for each in shipped}
    except ConfigError as error:
        table.problem("topic", str(error), "Kafka takes letters, digits, dots, dashes, underscores")
        return None
    if len(topics) < len(shipped):
        table.problem(
            "topic",
            f"several streams would share a topic: {', '.join(sorted(topics))}",
            "Put {stream} into it, or name one stream in streams",
        )
    return upstream
