"""The auditor: what the devices' ledger says against what is upstream, message by message.

Owns the verdict. Never reads Kafka itself: it is fed records, in partition order, by kafka_tail.

A record is matched to the ledger by (device, sequence): the sequence from the payload, the device
from the record's key or from its mqtt.topic header, whichever the payload's digest confirms.

- lost: acknowledged to the device, and not upstream. The one thing that must never be.
- duplicate: a copy beyond the first. *Explained* if the device was free to send twice and did:
  QoS 1, the copy carries mqtt.dup, and there are no more copies than transmissions. *Marked* if
  the gateway itself says so (a header of its own, because the upstream had forgotten the
  producer). Everything else is unexplained.
- out of order: the first copy of a message comes, in its partition, after the first copy of a
  later one of the same device. Messages the gateway had refused once are exempt.
- wrong: key, topic header, partition, payload or expected header differ from the ledger's.
- foreign: no device of the ledger. Other traffic, or a ledger that was cut short.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kafka_place import partition_of
from ledger import Ledger, MessageEntry, digest
from payload import sequence_of

EXAMPLE_COUNT_MAX = 10
DUP_HEADER = "mqtt.dup"
TOPIC_HEADER = "mqtt.topic"
MARK_HEADER = "sluicegate.resent"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRecord:
    """One record as a consumer got it. `seen_ms` is the machine's time at that moment."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]
    seen_ms: int


@dataclass(slots=True)
class Finding:
    """A count and the first few cases."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """One more."""
        self.count += 1
        if len(self.examples) < EXAMPLE_COUNT_MAX:
            self.examples.append(example)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """From the first transmission of a message to the first sight of it upstream."""

    sent_ms: int
    took_ms: int


@dataclass(slots=True, kw_only=True)
class AuditReport:
    """The result. `passed` is what an exit status is made of."""

    published: int
    given_up: int
    sent: int
    sent_again: int
    acknowledged: int
    upstream_records: int
    upstream: int
    unacknowledged_upstream: int
    lost: Finding
    duplicated_explained: Finding
    duplicated_marked: Finding
    duplicated_unexplained: Finding
    out_of_order: Finding
    wrong_key: Finding
    wrong_topic: Finding
    wrong_partition: Finding
    wrong_value: Finding
    wrong_headers: Finding
    foreign: Finding
    ledger_complete: bool
    payload_bytes: int
    latencies: Sequence[Latency]

    @property
    def duplicated(self) -> int:
        """All copies beyond the first."""
        return (
            self.duplicated_explained.count
            + self.duplicated_marked.count
            + self.duplicated_unexplained.count
        )

    @property
    def passed(self) -> bool:
        """Nothing lost, nothing doubled without a reason, nothing out of order or altered."""
        faults = (
            self.lost,
            self.duplicated_unexplained,
            self.out_of_order,
            self.wrong_key,
            self.wrong_topic,
            self.wrong_partition,
            self.wrong_value,
            self.wrong_headers,
        )
        return not any(fault.count for fault in faults)

    def latency_ms(self, share: float, *, outside: Sequence[tuple[int, int]] = ()) -> int | None:
        """A percentile; without the messages first sent in the spans of time `outside`."""
        found = sorted(
            latency.took_ms
            for latency in self.latencies
            if not any(begin <= latency.sent_ms <= end for begin, end in outside)
        )
        return found[min(len(found) - 1, int(len(found) * share))] if found else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = asdict(replace(self, latencies=()))
        del figures["latencies"]
        return {
            **figures,
            "duplicated": self.duplicated,
            "latency_p50_ms": self.latency_ms(0.50),
            "latency_p99_ms": self.latency_ms(0.99),
            "passed": self.passed,
        }


@dataclass(slots=True)
class _Seen:
    """What was met of one message upstream."""

    copy_count: int = 1
    first_ms: int = 0


class Auditor:
    """Feed it every record of the stream, partition by partition in offset order, then `report`."""

    def __init__(self, *, partition_count: int) -> None:
        self._partition_count = partition_count
        self._records: list[UpstreamRecord] = []

    @property
    def record_count(self) -> int:
        """Records fed so far."""
        return len(self._records)

    def feed(self, record: UpstreamRecord) -> None:
        """Take a record."""
        self._records.append(record)

    def report(self, ledger: Ledger) -> AuditReport:
        """Compare. May be called again with a longer ledger."""
        return _Comparison(ledger, self._partition_count).run(self._records)


class _Comparison:
    """One run over all records."""

    def __init__(self, ledger: Ledger, partition_count: int) -> None:
        self._ledger = ledger
        self._partition_count = partition_count
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._highest: dict[tuple[str, int], int] = {}
        self._findings: dict[str, Finding] = {name: Finding() for name in _FINDING_NAMES}

    def run(self, records: Sequence[UpstreamRecord]) -> AuditReport:
        for record in records:
            self._record(record)
        messages = self._ledger.messages
        for key, entry in messages.items():
            if entry.acknowledged_ms is not None and key not in self._seen:
                self._note("lost", f"{_name(entry)} acknowledged at {entry.acknowledged_ms}")
        acknowledged = [m for m in messages.values() if m.acknowledged_ms is not None]
        return AuditReport(
            published=len(messages),
            given_up=sum(m.given_up is not None for m in messages.values()),
            sent=sum(m.sent_count for m in messages.values()),
            sent_again=sum(m.dup_count for m in messages.values()),
            acknowledged=len(acknowledged),
            upstream_records=len(records),
            upstream=len(self._seen),
            unacknowledged_upstream=sum(
                messages[key].acknowledged_ms is None for key in self._seen
            ),
            ledger_complete=self._ledger.complete,
            payload_bytes=sum(messages[key].size_bytes for key in self._seen),
            latencies=self._latencies(),
            **self._findings,
        )

    def _record(self, record: UpstreamRecord) -> None:
        place = f"partition {record.partition} offset {record.offset}"
        seq = sequence_of(record.value)
        entry = self._match(record, seq)
        if entry is None:
            known = any(name in self._ledger.devices for name in _names_in(record))
            kind = "wrong_value" if known and seq is None else "foreign"
            self._note(kind, f"{place} key {record.key!r} sequence {seq}")
            return
        where = f"{_name(entry)} at {place}"
        self._check_fields(record, entry, where)
        seen = self._seen.get((entry.device, entry.seq))
        if seen is not None:
            seen.copy_count += 1
            self._note(_kind_of_copy(record, entry, seen.copy_count), where)
            return
        self._seen[entry.device, entry.seq] = _Seen(first_ms=record.seen_ms)
        self._check_order(record, entry, where)

    def _match(self, record: UpstreamRecord, seq: int | None) -> MessageEntry | None:
        if seq is None:
            return None
        found = [
            entry
            for name in _names_in(record)
            if (entry := self._ledger.messages.get((name, seq))) is not None
        ]
        expected = digest(record.value)
        return next((e for e in found if e.digest == expected), found[0] if found else None)

    def _check_fields(self, record: UpstreamRecord, entry: MessageEntry, where: str) -> None:
        device = self._ledger.devices[entry.device]
        key = device.name.encode()
        if record.key != key:
            self._note("wrong_key", f"{where}: {record.key!r}")
        if record.partition != partition_of(key, self._partition_count):
            self._note("wrong_partition", where)
        if digest(record.value) != entry.digest:
            self._note("wrong_value", where)
        for name, value in device.headers.items():
            if record.headers.get(name) != value.encode():
                kind = "wrong_topic" if name == TOPIC_HEADER else "wrong_headers"
                self._note(kind, f"{where}: {name}={record.headers.get(name)!r}")

    def _check_order(self, record: UpstreamRecord, entry: MessageEntry, where: str) -> None:
        lane = entry.device, record.partition
        highest = self._highest.get(lane, 0)
        if entry.seq < highest:
            if not entry.refused_count:
                self._note("out_of_order", f"{where}: after sequence {highest}")
            return
        self._highest[lane] = entry.seq

    def _latencies(self) -> list[Latency]:
        found = []
        for key, seen in self._seen.items():
            sent_ms = self._ledger.messages[key].first_sent_ms
            if sent_ms is not None:
                found.append(Latency(sent_ms=sent_ms, took_ms=seen.first_ms - sent_ms))
        return found

    def _note(self, kind: str, example: str) -> None:
        self._findings[kind].add(example)


_FINDING_NAMES = (
    "lost",
    "duplicated_explained",
    "duplicated_marked",
    "duplicated_unexplained",
    "out_of_order",
    "wrong_key",
    "wrong_topic",
    "wrong_partition",
    "wrong_value",
    "wrong_headers",
    "foreign",
)


def _kind_of_copy(record: UpstreamRecord, entry: MessageEntry, copy_count: int) -> str:
    if MARK_HEADER in record.headers:
        return "duplicated_marked"
    was_resent = entry.qos == 1 and copy_count <= entry.sent_count
    if was_resent and record.headers.get(DUP_HEADER) == b"1":
        return "duplicated_explained"
    return "duplicated_unexplained"


def _names_in(record: UpstreamRecord) -> list[str]:
    """Device names the record gives: its key, and the level of its topic that holds one."""
    levels = record.headers.get(TOPIC_HEADER, b"").split(b"/")
    names = [record.key or b"", levels[2] if len(levels) == 4 else b""]
    return [name.decode("utf-8", "replace") for name in names if name]


def _name(entry: MessageEntry) -> str:
    return f"{entry.device} sequence {entry.seq} (QoS {entry.qos})"
