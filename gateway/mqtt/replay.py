"""Replay: a SUBSCRIBE that asks for stored messages first (an addition of ours to 3.8).

Owns what may be asked, and how:

    5.0, user properties of SUBSCRIBE         3.1.1 (5.0 too), in front of the filter
    from=earliest                             $replay/earliest/FILTER
    from=latest                               $replay/latest/FILTER
    from=offset:N   of each partition         $replay/offset:N/FILTER
    from=time:T     ms since 1970, RFC 3339   $replay/time:T/FILTER
    limit=N         no more stored ones than N, then live
    position=1      deliveries say sluicegate.stream, .partition, .offset and .time

The subscription is to FILTER, whatever is in front. Stored messages come in the order of their
partition, then live ones; QoS 0 too. A subscriber that wants positions is always fed from the log.
"""

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.mqtt.dead_letters import DEAD_LETTERS, DEAD_TOPIC_PREFIX
from gateway.mqtt.errors import ReplayInvalid
from gateway.mqtt.positions import Positions, decode_positions, encode_positions
from gateway.mqtt.properties import Properties
from gateway.mqtt.topics import is_shared

if TYPE_CHECKING:
    from gateway.mqtt.catchup import Catchup
    from gateway.mqtt.session import Session
    from gateway.mqtt.sessions import SessionTable
    from log import Log

_PREFIX = "$replay/"
_DEAD_PREFIX = DEAD_TOPIC_PREFIX.decode()
_RIGHT_FROM = (
    "expected earliest, latest, offset:N, or time:T with ms since 1970 or RFC 3339"
    " (2026-01-31T12:00:00Z)"
)
_OFFSET_MAX = 2**63 - 1
_TIME_MS_MAX = 2**48


class Replay(NamedTuple):
    """`kind` is earliest, latest, offset or time; `limit` 0: none."""

    kind: str
    value: int
    limit: int
    with_position: bool


NO_REPLAY = Replay("latest", 0, 0, False)


def split_replay(topic_filter: str) -> tuple[str, str]:
    """What is asked in front of a filter ("" if nothing is), and the filter. ReplayInvalid."""
    if not topic_filter.startswith(_PREFIX):
        return "", topic_filter
    start, slash, rest = topic_filter[len(_PREFIX) :].partition("/")
    if not slash or not rest:
        raise ReplayInvalid(f"{topic_filter}: expected $replay/FROM/FILTER")
    return start, rest


def read_replay(start: str, topic_filter: str, properties: Properties) -> Replay:
    """What a SUBSCRIBE asks for one filter. ReplayInvalid says what would be right."""
    asked = dict(properties.user_properties)
    start = start or asked.get("from", "latest")
    limit, position = asked.get("limit", "0"), asked.get("position", "0")
    if not _is_number(limit):
        raise ReplayInvalid(f"limit={limit}: expected a number of messages")
    if position not in ("0", "1"):
        raise ReplayInvalid(f"position={position}: expected 0 or 1")
    kind, _, value = start.partition(":")
    if kind in ("earliest", "latest") and not value:
        number = 0
    elif kind == "offset" and _is_number(value) and int(value) <= _OFFSET_MAX:
        number = int(value)
    elif kind == "time":
        number = _time_ms(start, value)
    else:
        raise ReplayInvalid(f"from={start}: {_RIGHT_FROM}")
    replay = Replay(kind, number, int(limit), position == "1")
    if is_shared(topic_filter) and (kind != "latest" or replay.with_position):
        raise ReplayInvalid("a shared subscription cannot be replayed, nor tell positions")
    return replay


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _time_ms(start: str, text: str) -> int:
    if _is_number(text):
        if int(text) <= _TIME_MS_MAX:
            return int(text)
        raise ReplayInvalid(f"from={start}: {_RIGHT_FROM}")
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ReplayInvalid(f"from={start}: {_RIGHT_FROM}") from None
    if time.tzinfo is None:
        raise ReplayInvalid(f"from={start}: expected a time with its offset, as Z or +01:00")
    return max(0, int(time.timestamp() * 1000))


class Replayer:
    def __init__(self, log: "Log", sessions: "SessionTable", catchup: "Catchup") -> None:
        self._log = log
        self._sessions = sessions
        self._catchup = catchup

    def begin(self, session: "Session", topic_filter: str, replay: Replay) -> None:
        """The session has just subscribed. What its other subscriptions had, they get no more."""
        if replay.kind == "latest" and not replay.with_position:
            return
        now = session.positions(self._sessions.ends)
        start = self._start(replay, topic_filter)
        subscriptions = session.subscriptions
        for name, each in subscriptions.items():
            if name == topic_filter:
                subscriptions[name] = msgspec.structs.replace(
                    each,
                    start=encode_positions(start),
                    replay_limit=replay.limit if replay.kind != "latest" else None,
                    with_position=replay.with_position,
                )
            elif not is_shared(name):
                known = decode_positions(each.start)
                later = {key: max(offset, known.get(key, 0)) for key, offset in now.items()}
                subscriptions[name] = msgspec.structs.replace(each, start=encode_positions(later))
        session.outbox.clear_queue()
        places = {key: min(offset, start.get(key, 0)) for key, offset in now.items()}
        self._catchup.begin(session, places)

    def _start(self, replay: Replay, topic_filter: str) -> Positions:
        """OSError, CorruptBatch of a search by time: from the beginning, then."""
        is_of_dead_letters = topic_filter.startswith(_DEAD_PREFIX)
        found: Positions = {}
        for partition_id, partition in self._log.partitions.items():
            first, end = partition.start_offset, partition.durable_end
            if is_of_dead_letters and partition.stream != DEAD_LETTERS:
                found[partition_id] = self._sessions.ends[partition_id]
                continue  # all there is of these is in one stream
            match replay.kind:
                case "earliest":
                    offset = first
                case "offset":
                    offset = min(max(replay.value, first), end)
                case "time":
                    offset = partition.offset_at(replay.value)
                case _:
                    offset = self._sessions.ends[partition_id]
            found[partition_id] = offset
        return found
