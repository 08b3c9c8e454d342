"""The topics under $SYS that people know from Mosquitto: what the gateway says of itself.

Owns their names, values and averages; where the figures come from is `Figures`, what is sent to
whom is the broker's. They are in no log: a value is worth something until the next one. A new
subscriber is sent the current ones as retained messages; after that, what has changed, at each
interval. `#` never matches them [MQTT-4.7.2-1], and no client may publish there.

The averages under `load` are per minute, over 1, 5 and 15 minutes, as in an operating system:
each interval moves them towards its own rate, by less the longer they reach back.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from math import exp

from gateway.mqtt.topics import filter_matches

PREFIX = "$SYS/"
_BROKER = "$SYS/broker/"
_SPANS_MIN = (1, 5, 15)


def is_reserved(topic: str) -> bool:
    """Whether only the gateway may publish there."""
    return topic.startswith(PREFIX) or topic == "$SYS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Totals since the start where not said otherwise. Messages are packets of any kind,
    publishes those that carry an application message. None: not known here."""

    clients_connected: int = 0
    """Now."""
    clients_offline: int = 0
    """Sessions without a connection, now."""
    clients_maximum: int = 0
    """Most that were connected at once, as seen once a second."""
    subscriptions: int = 0
    """Now."""
    retained: int = 0
    """Now."""
    stored_messages: int = 0
    """In the log, now."""
    stored_bytes: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    publishes_received: int = 0
    publishes_sent: int = 0
    publishes_dropped: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    connections: int = 0
    """CONNECTs that were accepted."""
    sockets: int = 0
    """Network connections that were accepted."""


_LOADS = (
    ("messages/received", "messages_received"),
    ("messages/sent", "messages_sent"),
    ("publish/received", "publishes_received"),
    ("publish/sent", "publishes_sent"),
    ("publish/dropped", "publishes_dropped"),
    ("bytes/received", "bytes_received"),
    ("bytes/sent", "bytes_sent"),
    ("connections", "connections"),
    ("sockets", "sockets"),
)
_COUNTS = (
    ("clients/connected", "clients_connected"),
    ("clients/active", "clients_connected"),
    ("clients/disconnected", "clients_offline"),
    ("clients/inactive", "clients_offline"),
    ("clients/maximum", "clients_maximum"),
    ("messages/received", "messages_received"),
    ("messages/sent", "messages_sent"),
    ("messages/stored", "stored_messages"),
    ("store/messages/count", "stored_messages"),
    ("store/messages/bytes", "stored_bytes"),
    ("publish/messages/received", "publishes_received"),
    ("publish/messages/sent", "publishes_sent"),
    ("publish/messages/dropped", "publishes_dropped"),
    ("bytes/received", "bytes_received"),
    ("bytes/sent", "bytes_sent"),
    ("subscriptions/count", "subscriptions"),
    ("retained messages/count", "retained"),
)
assert {name for _, name in (*_LOADS, *_COUNTS)} == {each.name for each in fields(Figures)}


class SysTopics:
    """`interval_ms` 0: there are none. `now_ms` is monotonic."""

    def __init__(
        self, version: str, *, interval_ms: int, read: Callable[[], Figures], now_ms: int
    ) -> None:
        self._version = version
        self._read = read
        self._started_ms = now_ms
        self._last_ms = now_ms
        self._last: Figures | None = None
        self._averages: dict[tuple[str, int], float] = {}
        self._values: dict[str, bytes] = {}
        self.interval_ms = interval_ms

    def sweep(self, now_ms: int) -> dict[str, bytes]:
        """Topics and their new values, where the interval is over; else nothing."""
        if not self.interval_ms:
            self._values = {}
            return {}
        passed_ms = now_ms - self._last_ms
        if self._last is not None and passed_ms < self.interval_ms:
            return {}
        figures = self._read()
        if self._last is not None:
            self._average(figures, self._last, passed_ms)
        self._last, self._last_ms = figures, now_ms
        before, self._values = self._values, dict(self._lines(figures, now_ms))
        return {topic: value for topic, value in self._values.items() if before.get(topic) != value}

    def find(self, topic_filter: str) -> list[tuple[str, bytes]]:
        """The current values that a new subscriber is sent."""
        if not topic_filter.startswith("$"):
            return []
        return [each for each in self._values.items() if filter_matches(topic_filter, each[0])]

    def _average(self, figures: Figures, last: Figures, passed_ms: int) -> None:
        for _, name in _LOADS:
            rate = (getattr(figures, name) - getattr(last, name)) * 60_000 / passed_ms
            for span_min in _SPANS_MIN:
                old = self._averages.get((name, span_min), 0.0)
                kept = exp(-passed_ms / (span_min * 60_000))
                self._averages[name, span_min] = rate + kept * (old - rate)

    def _lines(self, figures: Figures, now_ms: int) -> Iterator[tuple[str, bytes]]:
        yield _BROKER + "version", f"sluicegate version {self._version}".encode()
        yield _BROKER + "uptime", b"%d seconds" % ((now_ms - self._started_ms) // 1000)
        total = figures.clients_connected + figures.clients_offline
        yield _BROKER + "clients/total", b"%d" % total
        for topic, name in _COUNTS:
            yield _BROKER + topic, b"%d" % getattr(figures, name)
        for topic, name in _LOADS:
            for span_min in _SPANS_MIN:
                average = self._averages.get((name, span_min), 0.0)
                yield f"{_BROKER}load/{topic}/{span_min}min", f"{average:.2f}".encode()
