"""What all connections share: the round of acknowledgements, and local deliveries.

Owns the MQTT side of group commit. Connections append to the log and leave what they want to send
once that is durable in their `pending`; `cut` takes it all when the round is closed into a frame,
`durable` sends it after fdatasync returned, one write a connection, and then hands the round's
messages to local subscribers. So nothing is acknowledged before it is durable, and nobody is
handed a message that a crash could take back.

When the log fails, nothing more is acknowledged: every connection is ended, and new ones are
refused (`storage_error`) until the process is restarted.

Sans-I/O: it calls the committer's `request` and the connections' wires, and is called by them.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from gateway.ingest import Ingest, Route
from gateway.limits import MqttLimits
from gateway.mqtt.dead_letters import DeadLetters
from gateway.mqtt.deliveries import Deliveries, RoundDeliveries
from gateway.mqtt.errors import ServerShuttingDown, StorageFailed
from gateway.mqtt.fanout import Counters
from gateway.mqtt.packets import Will
from gateway.mqtt.properties import Properties
from gateway.mqtt.retained import RetainedTable
from gateway.mqtt.roles import Committer, Listener, NoListener
from gateway.mqtt.sessions import SessionTable
from gateway.mqtt.sys_publisher import SysPublisher
from log import Log, LogError, Partition, RecordTemplate

if TYPE_CHECKING:
    from gateway.mqtt.endpoint import Endpoint
    from gateway.mqtt.inbound import Run

_log = logging.getLogger(__name__)


class Arrival(NamedTuple):
    """A run of messages that was read and is not yet in the log; made by hand in the hot path."""

    connection: "Endpoint"
    run: "Run"
    values: list[bytes]
    acknowledgements: bytes
    acknowledged_count: int


class Round(NamedTuple):
    """What waits for one frame to be durable."""

    acknowledgements: "list[tuple[Endpoint, bytes, int]]"
    deliveries: RoundDeliveries


def _record_overhead_bytes_max(limits: MqttLimits) -> int:
    """What a record may have that its packet has not: a topic that was sent as an alias, a key
    (client id or topic), the names of headers."""
    return 2 * limits.topic_bytes_max + 2 * limits.client_id_bytes_max + 2048


class Broker:
    """`committer` must call cut/durable/failed: `committer.add_participant(broker)`.

    `now_ms` is monotonic: a clock that is set would end the connections of a whole fleet.
    """

    def __init__(
        self,
        *,
        log: Log,
        ingest: Ingest,
        committer: Committer,
        retained: RetainedTable,
        limits: MqttLimits,
        now_ms: Callable[[], int],
        rng: Random,
        listener: Listener | None = None,
    ) -> None:
        self.ingest = ingest
        self.retained = retained
        self.limits = limits
        self.now_ms = now_ms
        self.rng = rng
        self.committer = committer
        self.request = committer.request
        self.listener: Listener = listener or NoListener()
        self.sessions = SessionTable(log, limits, now_ms(), rng)
        self.tree = self.sessions.tree
        self.connections: set[Endpoint] = set()
        self.waiting: list[Endpoint] = []
        """Connections with something in `pending`, for the next cut."""
        self.inbox: list[Arrival] = []
        """What was read and is not yet in the log, in order."""
        self.inbox_bytes = 0
        self.is_awaited = False
        """Somebody waits for the round: a publisher for its acknowledgement, or a subscriber."""
        self.partial_bytes = 0
        """Of packets that are not whole, on all connections."""
        self.large_bytes = ingest.record_bytes_max - _record_overhead_bytes_max(limits)
        """A read that is no larger holds no message that is too large for a record."""
        committer.add_preparer(self.prepare)
        self.is_holding = False
        """Connections are not read, for the log cannot keep up."""
        self.counters = Counters()
        self._reported = Counters()
        self.deliveries = Deliveries(log, self.sessions, self.counters, now_ms)
        self.catchup = self.deliveries.catchup
        self.dead_letters = DeadLetters(
            log, self.sessions, self.deliveries, self.counters, self.request
        )
        self.sys: SysPublisher | None = None
        self.storage_error: LogError | None = None
        self.is_draining = False

    # -- participant of the committer --------------------------------------------------------

    def cut(self) -> Round | None:
        if not self.waiting and not self.deliveries.appended:
            return None
        acknowledgements = []
        for connection in self.waiting:
            acknowledgements.append((connection, connection.pending, connection.pending_count))
            connection.pending = b""
            connection.pending_count = 0
        self.waiting.clear()
        return Round(acknowledgements, self.deliveries.cut())

    def durable(self, token: object) -> None:
        assert isinstance(token, Round)
        counters = self.counters
        for connection, data, count in token.acknowledgements:
            connection.acknowledge(data, count)
            counters.acknowledgements_sent += count
            counters.bytes_sent += len(data)
        self.deliveries.durable(token.deliveries)

    def failed(self, error: BaseException) -> None:
        self.storage_failed(error if isinstance(error, LogError) else LogError(str(error)))

    def storage_failed(self, error: LogError) -> None:
        if self.storage_error is None:
            self.storage_error = error
            self.sessions.has_failed = True
            _log.critical(
                "mqtt.storage_failed error=%s connections=%d", error, len(self.connections)
            )
            for connection in list(self.connections):
                connection.end(StorageFailed("the log failed: nothing is stored or acknowledged"))

    def prepare(self) -> None:
        """The round is about to be cut: what belongs to it is put into the log."""
        self.store()
        self.is_awaited = False
        if self.storage_error is None:
            self.sessions.save_changed()

    def arrived(self, *, is_awaited: bool) -> None:
        """Messages came for a round that nobody waited for till now."""
        if is_awaited or self.deliveries.are_wanted:
            self.is_awaited = True
            self.request()
        else:
            self.committer.request_later()

    # -- storing -------------------------------------------------------------------------------

    def store(self) -> None:
        """Puts the inbox into the log, a call for each partition, and owes its acknowledgements.

        Called before a round is cut, and by whoever wants what was read before in the log now.
        """
        inbox = self.inbox
        if not inbox:
            return
        self.inbox = []
        self.counters.bytes_received += self.inbox_bytes
        self.inbox_bytes = 0
        by_partition: dict[Partition, list[tuple[RecordTemplate, list[bytes]]]] = {}
        has_retained = False
        for _, run, values, _, _ in inbox:
            runs = by_partition.get(run.partition)
            if runs is None:
                runs = by_partition[run.partition] = []
            runs.append((run.template, values))
            if run.retain:
                has_retained = True
        refused: dict[Partition, LogError] = {}
        offsets: dict[Partition, int] = {}
        self.deliveries.appended.update(dict.fromkeys(by_partition))
        for partition, runs in by_partition.items():
            offsets[partition] = partition.end_offset
            try:
                self.ingest.append_runs(partition, runs)
            except LogError as error:
                refused[partition] = error
        if has_retained:
            self._retain(inbox, dict(offsets), refused)
        if refused:
            inbox = self._refuse(inbox, refused)
        waiting = self.waiting
        for connection, _, _, acknowledgements, count in inbox:
            if count:
                if not connection.pending:
                    waiting.append(connection)
                connection.pending += acknowledgements
                connection.pending_count += count
        if self.deliveries.are_wanted:
            for _, run, values, _, _ in inbox:
                self.deliveries.publish(run, values, offsets[run.partition])
                offsets[run.partition] += len(values)
        if self.is_awaited:
            self.request()
        else:
            self.committer.request_later()
        if self.committer.congested:
            self.hold_back()

    def _retain(
        self,
        inbox: list[Arrival],
        offsets: dict[Partition, int],
        refused: "dict[Partition, LogError]",
    ) -> None:
        """`offsets`: where the inbox begins in each partition."""
        for _, run, values, _, _ in inbox:
            end = offsets[run.partition] + len(values)
            offsets[run.partition] = end
            if run.retain and run.partition not in refused:
                self.retained.stored(
                    run.route, run.qos, run.message_properties, values[-1], end - 1
                )

    def _refuse(self, inbox: list[Arrival], refused: "dict[Partition, LogError]") -> list[Arrival]:
        """Answers what the log did not take; returns the rest."""
        taken: list[Arrival] = []
        for arrival in inbox:
            # Plain tuples, as the hot path makes them.
            connection, run, values, ids, _ = arrival
            error = refused.get(run.partition)
            if error is None:
                taken.append(arrival)
            else:
                answers = [ids[at : at + 4] for at in range(0, len(ids), 4)]
                connection.refuse(error, answers, len(values))
        return taken

    # -- backpressure --------------------------------------------------------------------------

    def hold_back(self) -> None:
        """Too much is pending: nobody is read until there is relief.

        Not only who has just sent: a turn of the loop may have a read for each of thousands of
        connections, and what was read is in memory.
        """
        if self.is_holding:
            return
        self.is_holding = True
        for connection in self.connections:
            connection.pause_for_storage()
        self.committer.on_relief(self._relief)

    def _relief(self) -> None:
        self.is_holding = False
        for connection in list(self.connections):
            connection.resume_from_storage()

    # -- messages ------------------------------------------------------------------------------

    def appended(
        self,
        route: Route,
        payload: bytes,
        offset: int,
        qos: int,
        retain: bool,
        properties: Properties,
    ) -> None:
        """A message that no connection of ours published is in the current round: it is retained,
        and local subscribers get it, when that is durable."""
        self.deliveries.appended[route.partition] = None
        if retain:  # [MQTT-3.1.2-17]
            self.retained.stored(route, qos, properties, payload, offset)
        self.deliveries.publish_message(route, payload, offset, qos, retain, properties)

    def append(self, partition: Partition, template: RecordTemplate, payload: bytes) -> int:
        """One record, behind `store`; its offset. Errors as `Log.append`."""
        offset = self.ingest.append(partition, template, (payload,))
        self.deliveries.appended[partition] = None
        return offset

    def publish_will(self, client_id: str, will: Will) -> None:
        """Stores and delivers a will like a PUBLISH of its client; there is nobody to answer."""
        route = self.ingest.route(client_id, will.topic)
        template = self.ingest.template(
            route, qos=will.qos, retain=will.retain, dup=False, properties=will.properties
        )
        self.store()
        try:
            offset = self.ingest.append(route.partition, template, (will.payload,))
        except LogError as error:
            self.counters.messages_refused += 1
            _log.warning("mqtt.will_refused client=%r error=%s", client_id, error)
            return
        self.appended(route, will.payload, offset, will.qos, will.retain, will.properties)
        self.request()
        if self.committer.congested:
            self.hold_back()

    def gone(self, connection: "Endpoint", will: Will | None) -> None:
        """A connection has ended, for whatever reason; called once."""
        self.connections.discard(connection)
        session = connection.session
        if session is not None:
            self.catchup.end(session)
            due = self.sessions.detach(session, self.now_ms(), will)
            if session.is_stored and self.storage_error is None:
                self.request()
            if due is not None:
                self.publish_will(connection.client_id, due)

    # -- housekeeping --------------------------------------------------------------------------

    def sweep(self, now_ms: int) -> None:
        """Once a second: keep-alive, CONNECT time-out, session expiry, wills that are due."""
        for connection in list(self.connections):
            connection.sweep(now_ms)
        if self.sessions.save_some(self.connections):
            self.request()
        for session, will in self.sessions.sweep(now_ms):
            self.publish_will(session.client_id, will)
        if self.sys is not None:
            self.sys.sweep(now_ms)
        self._report()

    def _report(self) -> None:
        """What was refused or dropped is said, once a sweep."""
        now, before = self.counters, self._reported
        if now.messages_refused > before.messages_refused:
            count = now.messages_refused - before.messages_refused
            _log.warning("mqtt.messages_refused count=%d", count)
        if now.deliveries_dropped > before.deliveries_dropped:
            count = now.deliveries_dropped - before.deliveries_dropped
            _log.warning("mqtt.deliveries_dropped count=%d reason=slow_subscriber", count)
        if now.deliveries_missed > before.deliveries_missed:
            count = now.deliveries_missed - before.deliveries_missed
            _log.warning("mqtt.deliveries_missed_total count=%d reason=removed", count)
        self._reported = replace(now)

    def routes_changed(self) -> None:
        """The routing table was replaced: connections forget what they resolved."""
        for connection in self.connections:
            connection.forget_routes()

    def end_all(self) -> None:
        """The server stops: every client is told."""
        for connection in list(self.connections):
            connection.end(ServerShuttingDown("the gateway is shutting down"))
