"""From a broker's messages to records, and from what is durable to acknowledgements. Sans-I/O.

Owns what one source has read and the log has not, and what the broker may be told. Duties:

    arrived, released     what the broker sent; nothing is answered yet
    store                 into the log's current round, with the QoS 2 identifiers in its state
    cut -> durable        fdatasync returned: only now PUBACK, PUBREC and PUBCOMP

QoS 1: a message that was not acknowledged when the connection or the process ended is sent again
by the broker, and is a second record with the header `mqtt.dup`. QoS 2 is stored once, through
kill -9 too: its packet identifier is durable in the same frame as its record, until PUBREL, and
PUBCOMP waits until that it is gone is durable, for from then on the broker gives it to another
message (4.3.3).

Never waits. What the log does not take is held, unacknowledged; who reads stops at `is_full`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from gateway.ingest import Ingest, Route
from gateway.limits import SourceLimits
from gateway.mqtt.properties import NO_PROPERTIES, Properties
from log import Log, LogError, LogFailed, LogFull, Partition, RecordTemplate

_log = logging.getLogger(__name__)

_ROUTES_MAX: Final = 4_096
"""Topics whose route is remembered: a plant's; each takes 0.7 KiB, measured."""


class Answer(IntEnum):
    PUBACK = 4
    PUBREC = 5
    PUBCOMP = 7


class Link(Protocol):
    """One connection to the broker. It may be gone: then an answer is nothing."""

    def answer(self, answers: Sequence[tuple[Answer, int]]) -> None: ...


class Incoming(NamedTuple):
    """One PUBLISH. `packet_id` is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    properties: Properties = NO_PROPERTIES


class _Held(NamedTuple):
    message: Incoming
    route: Route
    template: RecordTemplate


class _Round(NamedTuple):
    """What may be answered when one frame is durable."""

    link: Link
    owed: list[tuple[Answer, int]]


class Publish(Protocol):
    """Hands what is appended to local subscribers, once it is durable."""

    def __call__(
        self,
        route: Route,
        payload: bytes,
        offset: int,
        qos: int,
        retain: bool,
        properties: Properties,
    ) -> None: ...


class Committer(Protocol):
    @property
    def congested(self) -> bool: ...
    def request(self) -> None: ...
    def request_later(self) -> None: ...


class Intake:
    """A participant of the committer: `committer.add_participant(intake)`."""

    def __init__(
        self,
        name: str,
        *,
        log: Log,
        ingest: Ingest,
        committer: Committer,
        limits: SourceLimits,
        publish: Publish,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._log = log
        self._ingest = ingest
        self._committer = committer
        self._limits = limits
        self._publish = publish
        self._failed = failed
        self._routes: dict[str, Route] = {}
        self._held: list[_Held] = []
        self._held_bytes = 0
        self._link: Link | None = None
        self._owed: list[tuple[Answer, int]] = []
        """Answers of `_link` that may go when the current round is durable."""
        self._prefix = b"source/%b/qos2/" % name.encode()
        self._received = {
            int.from_bytes(key[-2:], "big") for key, _ in log.scan_state(self._prefix)
        }
        """QoS 2 identifiers of which the record is stored, and which were not released."""
        self.is_refused = False
        """The log takes no records now."""
        self.arrived_count = 0
        self.stored_count = 0
        self.unstorable_count = 0

    # -- what the broker sent

    def connected(self, link: Link, *, session_present: bool) -> None:
        """A session that is not present has no identifiers of ours [MQTT-3.1.2-4]. LogFailed."""
        self._link = link
        self._owed = []
        if not session_present:
            for packet_id in list(self._received):
                self._forget(packet_id)

    def disconnected(self) -> None:
        """What the broker has no acknowledgement of is still its own: it sends it again."""
        self._link = None
        self._owed = []
        self._held = [held for held in self._held if not held.message.qos]
        self._held_bytes = sum(len(held.message.payload) for held in self._held)

    def arrived(self, message: Incoming) -> None:
        self.arrived_count += 1
        if message.qos == 2 and message.packet_id in self._received:
            self._owe(Answer.PUBREC, message.packet_id)  # stored before [MQTT-4.3.3-10]
            return
        route = self._route(message.topic)
        template = self._ingest.template(
            route,
            qos=message.qos,
            retain=message.retain,
            dup=message.dup,
            properties=message.properties,
        )
        if template.fixed_bytes + len(message.payload) > self._ingest.record_bytes_max:
            self.unstorable(message, "too large for a record")
            return
        self._held.append(_Held(message, route, template))
        self._held_bytes += len(message.payload)

    def unstorable(self, message: Incoming, why: str) -> None:
        """It can never be stored, so the broker must not send it for ever: counted and said."""
        self.unstorable_count += 1
        _log.error(
            "source.unstorable source=%s topic=%r bytes=%d cause=%s",
            *(self.name, message.topic, len(message.payload), why),
        )
        if message.qos:
            answer = Answer.PUBACK if message.qos == 1 else Answer.PUBREC
            self._owe(answer, message.packet_id)

    def released(self, packet_id: int) -> None:
        """PUBREL. One of an unknown identifier was answered before [MQTT-4.3.3-11]. LogFailed."""
        self.arrived_count += 1
        if packet_id in self._received:
            self._forget(packet_id)
        self._owe(Answer.PUBCOMP, packet_id)

    def _route(self, topic: str) -> Route:
        route = self._routes.get(topic)
        if route is None:
            if len(self._routes) >= _ROUTES_MAX:
                self._routes.clear()
            route = self._routes[topic] = self._ingest.route_of_source(topic)
        return route

    def forget_routes(self) -> None:
        """The routing table was replaced."""
        self._routes.clear()

    # -- into the log

    @property
    def is_full(self) -> bool:
        """No more may be read."""
        limits = self._limits
        return len(self._held) >= limits.in_flight_max or self._held_bytes >= limits.held_bytes_max

    @property
    def has_held(self) -> bool:
        return bool(self._held)

    def store(self) -> None:
        """Puts what is held into the current round, unless the log has enough to do."""
        if not self._held or self._committer.congested:
            return
        held, self._held, self._held_bytes = self._held, [], 0
        by_partition: dict[Partition, list[_Held]] = {}
        for each in held:
            by_partition.setdefault(each.route.partition, []).append(each)
        refused: set[Partition] = set()
        offsets = {partition: partition.end_offset for partition in by_partition}
        for partition, messages in by_partition.items():
            try:
                self._append(partition, messages)
            except LogFull as error:
                refused.add(partition)
                self._refused(error)
            except LogFailed:
                return  # `failed` says so to all; nothing is acknowledged any more
        if refused:
            self._held = [each for each in held if each.route.partition in refused]
            self._held_bytes = sum(len(each.message.payload) for each in self._held)
        elif self.is_refused:
            self.is_refused = False
            _log.info("source.goes_on source=%s", self.name)
        self._owe_for([each for each in held if each.route.partition not in refused], offsets)

    def _append(self, partition: Partition, messages: Sequence[_Held]) -> None:
        runs: list[tuple[RecordTemplate, list[bytes]]] = []
        for each in messages:
            if runs and runs[-1][0] is each.template:
                runs[-1][1].append(each.message.payload)
            else:
                runs.append((each.template, [each.message.payload]))
        self._ingest.append_runs(partition, runs)

    def _owe_for(self, stored: Sequence[_Held], offsets: dict[Partition, int]) -> None:
        """They are in the current round, in each partition from its offset on: answers and local
        deliveries, in the broker's order."""
        self.stored_count += len(stored)
        is_awaited = False
        for message, route, _ in stored:
            offset = offsets[route.partition]
            offsets[route.partition] = offset + 1
            self._publish(
                route,
                message.payload,
                offset,
                message.qos,
                message.retain,
                message.properties,
            )
            if message.qos == 2:
                self._log.put_state(self._key(message.packet_id), b"")
                self._received.add(message.packet_id)
            if message.qos:
                is_awaited = True
                answer = Answer.PUBACK if message.qos == 1 else Answer.PUBREC
                self._owed.append((answer, message.packet_id))
        if is_awaited:
            self._committer.request()
        else:
            self._committer.request_later()

    def _refused(self, error: LogError) -> None:
        if not self.is_refused:
            self.is_refused = True
            _log.warning("source.held_back source=%s cause=%s", self.name, error)

    def _owe(self, answer: Answer, packet_id: int) -> None:
        self._owed.append((answer, packet_id))
        self._committer.request()

    def _key(self, packet_id: int) -> bytes:
        return self._prefix + packet_id.to_bytes(2, "big")

    def _forget(self, packet_id: int) -> None:
        self._received.discard(packet_id)
        self._log.put_state(self._key(packet_id), None)

    # -- participant of the committer

    def cut(self) -> object | None:
        if not self._owed or self._link is None:
            return None
        owed, self._owed = self._owed, []
        return _Round(self._link, owed)

    def durable(self, token: object) -> None:
        assert isinstance(token, _Round)
        if token.link is self._link:
            token.link.answer(token.owed)

    def failed(self, error: BaseException) -> None:
        """The journal failed: nothing is acknowledged any more."""
        self._link = None
        self._owed, self._held = [], []
        self._failed()
