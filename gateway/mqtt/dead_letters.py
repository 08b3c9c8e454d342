"""Messages that a subscriber would not have: stored apart, with the cause, instead of forgotten.

Owns the stream `_dead-letter` (one partition), whose records come from here alone, and what gets
there:

    refused          a 5.0 subscriber answered PUBACK or PUBREC with 0x80 or more: it is not sent
                     again [MQTT-4.4.0-2], and to no other member of a group [MQTT-4.8.2-6]
    unacknowledged   of QoS 1, sent on `delivery_attempts_max` connections and not acknowledged on
                     any: the first that a subscriber has not acknowledged, one a connection, for
                     those behind it may only have suffered from it. Not of QoS 2: the client may
                     know the identifier, and would take a later message with it for this one

A dead letter has the original's key, value, time in a header, and headers, but:

    mqtt.topic                       $dead-letter/ and the topic: `#` does not match it, so nobody
                                     gets it who has not asked
    mqtt.message-expiry, mqtt.dup    not there: it does not expire
    sluicegate.dead.client           who would not have it
    sluicegate.dead.cause            "refused 0x97", "unacknowledged"
    sluicegate.dead.attempts         how often it was sent
    sluicegate.dead.stream, .partition, .offset, .time   of the original; time in ms since 1970

It is in the same frame as the window that does not hold the message any more: after a crash either
the message is in flight still, or it is a dead letter, once. Where the log does not take it, the
message stays in flight.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from gateway.ingest import DUP_HEADER, EXPIRY_HEADER, TOPIC_HEADER, Route
from gateway.mqtt.fanout import Counters
from gateway.mqtt.messages import NOT_IN_THE_LOG
from gateway.mqtt.positions import InFlight
from gateway.mqtt.reason_codes import ReasonCode
from gateway.mqtt.session import Session
from gateway.mqtt.sessions import SessionTable
from gateway.mqtt.slices import Slices
from gateway.mqtt.stored import stored_message
from log import Log, LogError, Record, RecordTemplate, StreamSpec

if TYPE_CHECKING:
    from gateway.mqtt.deliveries import Deliveries

_log = logging.getLogger(__name__)

DEAD_LETTERS = "_dead-letter"
DEAD_LETTERS_SPEC = StreamSpec(name=DEAD_LETTERS, partition_count=1, replicated_by=frozenset())
"""Where the configuration has no such stream: no upstream ships it."""

DEAD_TOPIC_PREFIX = b"$dead-letter/"
DEAD_HEADER_PREFIX = b"sluicegate.dead."


class DeadLetters:
    def __init__(
        self,
        log: Log,
        sessions: SessionTable,
        deliveries: "Deliveries",
        counters: Counters,
        request: Callable[[], None],
    ) -> None:
        stream = log.streams.get(DEAD_LETTERS)
        self._partition = None if stream is None else stream.partitions[0]
        self._log = log
        self._sessions = sessions
        self._deliveries = deliveries
        self._counters = counters
        self._request = request
        self._slices = Slices(log)
        deliveries.catchup.gives_up = self.gives_up

    def takes(self, session: Session, packet_id: int, qos: int, code: int) -> bool:
        """PUBACK or PUBREC (`qos`) came. False: it was a refusal, and the message could not be
        stored as a dead letter: it is to be kept in flight."""
        if code < ReasonCode.UNSPECIFIED_ERROR:
            return True
        for place in session.outbox.in_flight():
            if (
                place.packet_id == packet_id
                and place.qos == qos  # or the outbox knows what to say
                and not place.is_received
                and place.partition_id != NOT_IN_THE_LOG
            ):
                return self._bury(session, place, f"refused 0x{code:02x}")
        return True

    def gives_up(self, session: Session, place: InFlight) -> bool:
        """Whether this, which would be sent again next, was sent often enough; then it is stored,
        and the caller takes it out of the outbox."""
        attempts_max = self._sessions.limits.delivery_attempts_max
        if (
            not attempts_max
            or place.sent_count + 1 < attempts_max
            or place.qos != 1
            or session.is_shared
            or session.outbox.has_sent_again
        ):
            return False
        return self._bury(session, place, "unacknowledged")

    def _bury(self, session: Session, place: InFlight, cause: str) -> bool:
        source = self._log.partitions.get(place.partition_id)
        record = self._slices.record_at(place)
        self._slices.clear()
        if self._partition is None or source is None or record is None:
            return cause != "unacknowledged"
        if source.stream == DEAD_LETTERS:
            _log.warning(
                "mqtt.dead_letter_refused client=%r offset=%d cause=%s",
                session.client_id,
                place.offset,
                cause,
            )
            return True  # or it would breed
        attempts = place.sent_count + 1
        marks = {
            "client": session.client_id,
            "cause": cause,
            "attempts": str(attempts),
            "stream": source.stream,
            "partition": str(source.index),
            "offset": str(place.offset),
            "time": str(record.timestamp_ms),
        }
        try:
            self._append(_dead_letter(record, marks))
        except LogError as error:
            _log.error(
                "mqtt.dead_letter_not_stored client=%r cause=%s error=%s",
                session.client_id,
                cause,
                error,
            )
            return False
        self._sessions.window_changed(session)
        if place.group:
            self._deliveries.groups.window_changed(place.group)
        self._counters.dead_letters += 1
        _log.warning(
            "mqtt.dead_letter client=%r stream=%s partition=%d offset=%d attempts=%d cause=%s",
            session.client_id,
            source.stream,
            source.index,
            place.offset,
            attempts,
            cause,
        )
        return True

    def _append(self, letter: Record) -> None:
        """Into the current round, and to those who have subscribed to dead letters."""
        partition = self._partition
        assert partition is not None
        key, value = letter.key or b"", letter.value or b""
        offset = self._log.append(partition, RecordTemplate(key, letter.headers), (value,))
        stored = stored_message(letter)
        topic = stored.topic.decode(errors="replace")
        self._deliveries.appended[partition] = None
        self._deliveries.publish_message(
            Route("", topic, partition, key), value, offset, stored.qos, False, stored.properties
        )
        self._request()


def _dead_letter(record: Record, marks: dict[str, str]) -> Record:
    headers = []
    for name, value in record.headers:
        if name == TOPIC_HEADER:
            headers.append((name, DEAD_TOPIC_PREFIX + value))
        elif name not in (EXPIRY_HEADER, DUP_HEADER[0]) and not name.startswith(
            DEAD_HEADER_PREFIX
        ):  # the last: of an earlier life, or forged
            headers.append((name, value))
    headers += [(DEAD_HEADER_PREFIX + name.encode(), text.encode()) for name, text in marks.items()]
    return msgspec.structs.replace(record, headers=tuple(headers))
