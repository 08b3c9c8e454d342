"""Deliveries to local subscribers: what of a round is for them, and what follows from handing out.

Owns the messages between the log's round and its being durable, and how far live subscribers were
handed the log (`sessions.ends`). Handing out is fanout.py's, reading from the log catchup.py's.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gateway.ingest import Route
from gateway.mqtt.catchup import Catchup
from gateway.mqtt.delivery import Outbox
from gateway.mqtt.fanout import Counters, Output, Published, deliver
from gateway.mqtt.properties import Properties
from gateway.mqtt.replay import Replayer
from gateway.mqtt.sessions import SessionTable
from gateway.mqtt.shared import GroupOutbox, Groups
from log import Log, Partition

if TYPE_CHECKING:
    from gateway.mqtt.inbound import Run
    from gateway.mqtt.session import Session


class RoundDeliveries(NamedTuple):
    """`ends`: partition id and end of what the round's frame has of that partition. `resent`: of
    whom something sent again goes out with the round, and `Outbox.resent_count` with that."""

    published: list[Published]
    ends: list[tuple[int, int]]
    resent: list[tuple["Session", Outbox, int]]


class Deliveries:
    def __init__(
        self, log: Log, sessions: SessionTable, counters: Counters, now_ms: Callable[[], int]
    ) -> None:
        self._log = log
        self._sessions = sessions
        self._tree = sessions.tree
        self._counters = counters
        self._now_ms = now_ms
        self._published: list[Published] = []
        self._resent: list[tuple[Session, Outbox, int]] = []
        self.appended: dict[Partition, None] = {}
        """Partitions with something in the round that is open."""
        self.catchup = Catchup(log, sessions, counters, now_ms, self.settle)
        self.groups = sessions.groups = Groups(sessions, self.catchup)
        sessions.remember_groups()
        self.replayer = Replayer(log, sessions, self.catchup)

    @property
    def are_wanted(self) -> bool:
        """Somebody may want what is stored now."""
        return len(self._tree) > 0 or len(self.catchup.reading) > 0

    def publish(self, run: "Run", payloads: Sequence[bytes], first_offset: int) -> None:
        """Messages that were appended, for their subscribers when they are durable."""
        self._publish(
            Published(
                run.route,
                run.qos,
                run.retain,
                run.message_properties,
                len(run.properties),
                self._now_ms(),
                payloads,
                first_offset,
                self._log.now_ms(),
            )
        )

    def publish_message(
        self,
        route: Route,
        payload: bytes,
        offset: int,
        qos: int,
        retain: bool,
        properties: Properties,
    ) -> None:
        """Likewise one that is no client's PUBLISH."""
        times = (self._now_ms(), self._log.now_ms())
        self._publish(
            Published(route, qos, retain, properties, 0, times[0], (payload,), offset, times[1])
        )

    def _publish(self, published: Published) -> None:
        """Whom it goes to is found out when it is durable: between now and then a subscriber may
        become live, or fall behind. But where nobody reads and nobody has subscribed to this,
        nobody can."""
        route = published.route
        if not self.catchup.reading:
            if route.matched_version != self._tree.version:
                self._sessions.match(route)
            if not route.targets:
                return
        self._published.append(published)

    # -- of the broker's part in the group commit

    def cut(self) -> RoundDeliveries:
        published, self._published = self._published, []
        ends = [(each.partition_id, each.end_offset) for each in self.appended]
        self.appended.clear()
        resent, self._resent = self._resent, []
        return RoundDeliveries(published, ends, resent)

    def durable(self, token: RoundDeliveries) -> None:
        for session, outbox, count in token.resent:
            self._resent_written(session, outbox, count)
        output = None
        if token.published:
            output = deliver(token.published, self._sessions, self._counters, self._now_ms())
            output.write()
            self._counters.bytes_sent += output.written_bytes
        self._sessions.ends.update(token.ends)
        if output is not None and output.sessions:
            self.settle(output)
        if self.catchup.reading:
            self.catchup.data_came()

    def _resent_written(self, session: "Session", outbox: Outbox, count: int) -> None:
        """What waited behind it may follow."""
        connection = session.connection
        if connection is None or session.outbox is not outbox:
            return  # that connection has ended
        connection.send(outbox.resent(count, self._now_ms()))
        self.used(session)

    # -- what follows

    def settle(self, output: Output) -> None:
        """After deliveries, when `sessions.ends` says how far they went: what must be durable
        before it is sent, and who could not take all."""
        for session in output.sessions:
            outbox = session.outbox
            if isinstance(outbox, GroupOutbox):
                self._settle_group(session, outbox)
            elif outbox.after_commit or outbox.dropped_count:
                self._settle_one(session)
            if outbox.first_missed:
                positions = session.positions(self._sessions.ends)
                outbox.clear_queue()
                self.catchup.begin(session, positions)

    def used(self, session: "Session") -> None:
        """After a packet of the client that may have changed what is in flight."""
        self._settle_one(session)
        if session.reading is not None or session.outbox.is_resending:
            self.catchup.room_made(session)
        self.groups.room_made(session)

    def _settle_group(self, group: "Session", outbox: GroupOutbox) -> None:
        """In one frame: where the group is, and what its members have of it."""
        touched, outbox.touched = outbox.touched, set()
        if any(member.outbox.after_commit for member in touched):
            self._sessions.window_changed(group)
        for member in touched:
            self._settle_one(member)
        self._counters.deliveries_dropped += outbox.dropped_count
        outbox.dropped_count = 0

    def _settle_one(self, session: "Session") -> None:
        outbox = session.outbox
        if outbox.dropped_count:
            self._counters.deliveries_dropped += outbox.dropped_count
            outbox.dropped_count = 0
        if outbox.after_commit:
            # The window is saved with the log's round, and then the packets go out.
            data = b"".join(outbox.after_commit)
            outbox.after_commit.clear()
            if session.connection is not None:
                self._sessions.window_changed(session)
                session.connection.defer(data)
                if outbox.is_resending:
                    self._resent.append((session, outbox, outbox.resent_count))
