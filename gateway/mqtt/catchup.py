"""Feeds subscribers from the log: those that were away, and those that cannot keep up.

Owns the passes over the log, a bounded slice a turn of the loop, beside live traffic. A session
that reads has a position in each partition. A slice begins at the position of the session whose
turn it is and serves all others that are at the same place, or come to it within the slice, and
have room: so a thousand that return together cost one pass. What a session has no room for is
where it goes on; it is in the line again when its client acknowledges or takes bytes.

At the end of every partition a session becomes live, between two rounds: nothing is missed,
nothing comes twice. Records that were in flight to the disk before the session was reading may
not have been kept for it (`Reading.barrier`), so it reads on until those are durable too.

What was in flight when the last connection ended is read here too, before anything else is.
"""

import logging
from collections.abc import Callable
from operator import itemgetter

from gateway.mqtt.fanout import Counters, Output
from gateway.mqtt.line import Line
from gateway.mqtt.matching import Matcher, count_replayed, target_at
from gateway.mqtt.messages import Delivery, Message, encode_delivery
from gateway.mqtt.pace import Pace
from gateway.mqtt.positions import InFlight, Positions, decode_positions
from gateway.mqtt.session import Reading, Session, Target
from gateway.mqtt.sessions import SessionTable
from gateway.mqtt.slices import Slice, Slices, behind_batch
from gateway.mqtt.stored import StoredMessage, message_of, stored_message, told_positions, topic_of
from gateway.mqtt.wants import Wants
from log import CorruptBatch, Log, OffsetOutOfRange, Partition, Record

_log = logging.getLogger(__name__)

_WAITING_BYTES_MAX = 64 * 1024
"""Memory of messages that wait in the queue of a session that reads: the log has the rest."""

_MISSED = "sluicegate.missed"


class Catchup:
    def __init__(
        self,
        log: Log,
        sessions: SessionTable,
        counters: Counters,
        now_ms: Callable[[], int],
        settle: Callable[[Output], None],
    ) -> None:
        self._log = log
        self._sessions = sessions
        self._counters = counters
        self._now_ms = now_ms
        self._settle = settle
        self.pace = Pace()
        self.gives_up: Callable[[Session, InFlight], bool] = lambda session, place: False
        self.reading: dict[Session, Reading] = {}
        self._at_end: set[Session] = set()
        self._matcher = Matcher(sessions)
        self._slices = Slices(log)
        self._wants = Wants(sessions)
        self._line = Line(self._wants)
        self._is_scheduled = False

    # -- who reads

    def attach(self, session: Session, positions: Positions | None) -> None:
        """A connection begins; `positions` of a session that was away."""
        reads = positions is not None and (
            any(subscription.qos for subscription in session.subscriptions.values())
            or session.wants_positions
        )
        if not reads:
            self._sessions.set_live(session)
        else:
            assert positions is not None
            self.begin(session, positions)
        self.wake(session)

    def begin(self, session: Session, positions: Positions) -> None:
        """The session is fed from `positions` on; live at once if there is nothing, and no feed of
        retained messages (retained_feed.py) that comes before."""
        partitions = self._log.partitions.values()
        ends = {partition.partition_id: partition.end_offset for partition in partitions}
        places = {key: min(positions.get(key, 0), end) for key, end in ends.items()}
        if places == ends and session.feed is None and not session.wants_positions:
            self._sessions.set_live(session)
            return
        reading = Reading(places, ends, dict(self._sessions.ends))
        for subscription in session.subscriptions.values():
            if subscription.start:
                reading.starts[subscription.filter] = decode_positions(subscription.start)
            if subscription.replay_limit is not None:
                reading.replays[subscription.filter] = subscription.replay_limit
        self._sessions.set_reading(session, reading)
        self.changed(session)
        self.reading[session] = reading
        self._at_end.discard(session)
        self.wake(session)

    def end(self, session: Session) -> None:
        """Its connection is gone."""
        self.reading.pop(session, None)
        self._at_end.discard(session)
        if not self.reading:
            self._slices.clear()
            self._wants.clear()

    def room_made(self, session: Session) -> None:
        """Its client has acknowledged something, or takes bytes again."""
        if session.feed is not None:
            session.feed.advance()
        if session.reading is not None:
            session.reading.is_blocked = False
        self.wake(session)

    def wake(self, session: Session) -> None:
        """It may have room, or there may be something new for it."""
        reading = session.reading
        if session.outbox.next_unsent is None:
            if reading is None or reading.is_ready or not _has_room(session):
                return
            reading.is_ready = True
        elif reading is not None:
            if reading.is_ready:
                return
            reading.is_ready = True
        self._line.add(session)
        self._schedule()

    def data_came(self) -> None:
        """A round was handed out: there is more for those that wait at the end."""
        self.pace.round_came()
        if self._at_end:
            at_end, self._at_end = self._at_end, set()
            for session in at_end:
                self.wake(session)

    def changed(self, session: Session) -> None:
        """Its subscriptions are others: what was read for it may not be all that it gets."""
        self._slices.changed(session)
        self._wants.changed(session)

    def _schedule(self) -> None:
        if self._line and not self._is_scheduled:
            self._is_scheduled = True
            self.pace.next(self.turn)

    # -- a turn

    def turn(self) -> None:
        """One slice, for one session and for all that go with it."""
        self.pace.turn_begins()
        while self._line:
            session = self._line.take(self._now_ms())
            reading = session.reading
            if reading is not None:
                reading.is_ready = False
            if session.connection is None:
                continue
            unsent = session.outbox.next_unsent
            if unsent is not None:
                self._send_again(session, *unsent)
                self.wake(session)
                break
            if reading is not None and _has_room(session):
                self._read_for(session, reading)
                break
        self._is_scheduled = False
        self._schedule()

    def _send_again(self, session: Session, packet_id: int, place: InFlight) -> None:
        """[MQTT-4.4.0-1] with its packet identifier and DUP."""
        connection = session.connection
        assert connection is not None
        record = self._slices.record_at(place)
        delivery = None
        is_dead = self.gives_up(session, place)
        if record is not None and not is_dead:
            stored = stored_message(record)
            target = self._matcher.target_now(session, stored.topic, place.group)
            message = message_of(
                record, stored, place.partition_id, self._log.now_ms(), self._now_ms()
            )
            delivery = Delivery(
                message._replace(expires_at_ms=None),  # it was sent before it expired
                place.qos,
                stored.retain and target is not None and target.retain_as_published,
                target.subscription_ids if target is not None else (),
                group=place.group,
                sent_count=place.sent_count,
            )
        elif not is_dead:
            self._missed(session, place.partition_id, 1)
        data = session.outbox.send_again(packet_id, delivery, self._now_ms())
        output = Output()
        output.sessions.add(session)
        if data:
            output.add(connection, data)
        output.write()
        self._settle(output)

    def _read_for(self, session: Session, reading: Reading) -> None:
        partition = self._next_partition(reading)
        if partition is None:
            self._reached_end(session, reading)
            return
        partition_id = partition.partition_id
        start = reading.positions[partition_id]
        group = {
            each
            for each, other in self.reading.items()
            if each is session or (other.positions[partition_id] >= start and _has_room(each))
        }
        try:
            wants = self._wants
            wants.include(session, self.reading, self._now_ms())
            found = self._slices.read(partition, start, session, wants.sessions, wants.selection)
        except OffsetOutOfRange as error:
            self._skip(session, reading, partition, error.start)
        except (CorruptBatch, OSError) as error:
            _log.error(
                "mqtt.catchup_unreadable stream=%s partition=%d offset=%d error=%s",
                partition.stream,
                partition.index,
                start,
                error,
            )
            self._skip(session, reading, partition, behind_batch(partition, start))
        else:
            self._serve(partition_id, found, group & found.sessions)
        for each in group:
            self.wake(each)

    def _next_partition(self, reading: Reading) -> Partition | None:
        """The one with most to read: none waits for ever behind another that grows."""
        positions = reading.positions
        left, partition = max(
            (
                (each.durable_end - positions[each.partition_id], each)
                for each in self._log.partitions.values()
            ),
            key=itemgetter(0),
        )
        return partition if left > 0 else None

    def _reached_end(self, session: Session, reading: Reading) -> None:
        ends = self._sessions.ends
        if not session.wants_positions and all(
            offset >= reading.barrier[key] and offset >= ends[key]
            for key, offset in reading.positions.items()
        ):
            ends.update(reading.positions)
            self.end(session)
            self._sessions.set_live(session)
        else:
            self._at_end.add(session)

    def _skip(self, session: Session, reading: Reading, partition: Partition, offset: int) -> None:
        partition_id = partition.partition_id
        count = offset - reading.positions[partition_id]
        reading.positions[partition_id] = offset
        self._missed(session, partition_id, count)

    def _missed(self, session: Session, partition_id: int, count: int) -> None:
        """Nothing is dropped in silence: the client is told with its next message, too."""
        session.missed_count += count
        self._counters.deliveries_missed += count
        _log.warning(
            "mqtt.deliveries_missed client=%r partition_id=%d count=%d reason=removed",
            session.client_id,
            partition_id,
            count,
        )

    # -- a slice

    def _serve(self, partition_id: int, found: Slice, group: set[Session]) -> None:
        """Hands the records of a slice to those of the group that are within it."""
        output = Output()
        now_ms = self._now_ms()
        end = found.next_offset
        group = {
            session for session in group if self.reading[session].positions[partition_id] < end
        }
        if group:
            first = min(self.reading[session].positions[partition_id] for session in group)
            at = found.at(first)
            for index in range(at, len(found.records)):
                record = found.records[index]
                self._serve_one(record, partition_id, group, output, now_ms)
                if not group:
                    break
        for session in group:
            self.reading[session].positions[partition_id] = end
        output.write()
        self._settle(output)

    def _serve_one(
        self,
        record: Record,
        partition_id: int,
        group: set[Session],
        output: Output,
        now_ms: int,
    ) -> None:
        stored: StoredMessage | None = None
        message: Message | None = None
        offset = record.offset
        for matched in self._matcher.match(topic_of(record)):
            session = matched.session
            if session not in group:
                continue
            reading = self.reading[session]
            if reading.positions[partition_id] > offset:
                continue
            if stored is None or message is None:
                stored = stored_message(record)
                message = message_of(
                    record, stored, partition_id, self._log.now_ms(), self._now_ms()
                )
            target = matched.target or target_at(
                matched, reading, stored.client_id, stored.qos, partition_id, offset
            )
            if target is None:
                continue
            extra = told_positions(self._log, message) if matched.with_position else ()
            if self._hand(message, stored, target, extra, reading, output, now_ms):
                if reading.replays:
                    count_replayed(matched, reading, self._sessions.ends)
            else:
                reading.positions[partition_id] = offset
                reading.is_blocked = True
                group.discard(session)

    def _hand(
        self,
        message: Message,
        stored: StoredMessage,
        target: Target,
        extra: tuple[tuple[str, str], ...],
        reading: Reading,
        output: Output,
        now_ms: int,
    ) -> bool:
        """False: there is no room for it now."""
        session = target.session
        connection = session.connection
        if connection is None:
            return False
        qos = min(target.qos, stored.qos)
        if (
            not qos
            and not reading.replays  # or `target_at` has seen to it
            and message.offset < reading.qos_0_from[message.partition_id]
        ):
            return True
        if not connection.is_writable or (
            qos and not session.outbox.takes(message.size_bytes, _WAITING_BYTES_MAX)
        ):
            return False
        if session.missed_count:
            extra += ((_MISSED, str(session.missed_count)),)
        delivery = Delivery(
            message,
            qos,
            message.retain and target.retain_as_published,
            target.subscription_ids,
            extra,
        )
        if qos or session.is_shared:
            data = session.outbox.push(delivery, now_ms, can_send=True)
            output.sessions.add(session)
        elif message.expires_at_ms is not None and message.expires_at_ms <= now_ms:
            return True
        else:
            data = encode_delivery(delivery, connection.level, 0, now_ms)
            if not connection.accepts_size(len(data)):
                self._counters.deliveries_dropped += 1
                return True
        if data:
            self._counters.publishes_sent += 1
            output.add(connection, data)
        return True


def _has_room(session: Session) -> bool:
    """It can be handed something of whatever QoS."""
    connection = session.connection
    reading = session.reading
    return (
        connection is not None
        and session.feed is None
        and not (reading is not None and reading.is_blocked)
        and connection.is_writable
        and session.outbox.takes(0, _WAITING_BYTES_MAX // 2)
        and not session.outbox.is_resending
    )
