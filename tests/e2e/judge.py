"""Compares what the fleet's ledger says was acknowledged with what a consumer gets from Kafka.

Every finding is a sentence; no finding means: nothing lost, nothing twice that was not a device's
retransmission, in order per device, the bytes, headers and partitions right.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cbor2

from tests.rigs.fleet import FleetLedger, Sent
from tests.rigs.upstream import UpstreamRecord

FINDINGS_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    findings: tuple[str, ...]
    acknowledged_count: int
    upstream_count: int
    qos1_copy_count: int
    """Second copies that are a QoS 1 device's marked retransmissions."""

    def __str__(self) -> str:
        shown = "\n".join(self.findings[:FINDINGS_SHOWN_MAX])
        return (
            f"{self.acknowledged_count} acknowledged, {self.upstream_count} upstream, of them "
            f"{self.qos1_copy_count} marked copies; {len(self.findings)} findings\n{shown}"
        )


def judge(
    ledger: FleetLedger, records: Sequence[UpstreamRecord], placed: Mapping[bytes, int]
) -> Verdict:
    """`placed`: the partition that Kafka's own default partitioner gives to each key."""
    findings: list[str] = []
    copies: dict[tuple[str, int], list[UpstreamRecord]] = defaultdict(list)
    newest: dict[str, int] = {}
    for record in records:
        identity = _identify(record, findings)
        if identity is None:
            continue
        sent = ledger.messages.get(identity)
        if sent is None:
            findings.append(f"{identity} is upstream, but no device ever took that reading")
            continue
        findings += _wrong_bytes(record, sent, ledger, placed)
        device, sequence = identity
        if identity not in copies:
            if sequence <= newest.get(device, -1):
                findings.append(f"{identity} comes after {newest[device]}: out of order")
            newest[device] = max(sequence, newest.get(device, -1))
        copies[identity].append(record)
    copy_count = 0
    for identity, sent in ledger.messages.items():
        found = copies.get(identity, [])
        findings += _wrong_count(sent, found)
        copy_count += max(0, len(found) - 1)
    return Verdict(
        findings=tuple(findings),
        acknowledged_count=len(ledger.acknowledged()),
        upstream_count=len(records),
        qos1_copy_count=copy_count,
    )


def _identify(record: UpstreamRecord, findings: list[str]) -> tuple[str, int] | None:
    try:
        reading = cbor2.loads(record.value or b"")
        return (record.key or b"").decode(), int(reading["s"])
    except (cbor2.CBORDecodeError, ValueError, KeyError, TypeError):
        findings.append(f"partition {record.partition} offset {record.offset} is no reading")
        return None


def _wrong_bytes(
    record: UpstreamRecord, sent: Sent, ledger: FleetLedger, placed: Mapping[bytes, int]
) -> list[str]:
    wrong = []
    who = f"{sent.device} {sent.sequence}"
    if hashlib.blake2b(record.value or b"", digest_size=12).hexdigest() != sent.payload_digest:
        wrong.append(f"{who}: the value is not what the device sent")
    headers = {name: (value or b"").decode() for name, value in record.headers}
    dup = headers.pop("mqtt.dup", None)
    qos = headers.pop("mqtt.qos", None)
    if qos != (None if sent.qos == 1 else str(sent.qos)):
        wrong.append(f"{who}: mqtt.qos={qos}, sent with {sent.qos}")
    if headers != ledger.headers[sent.device]:
        wrong.append(f"{who}: headers {headers}, sent {ledger.headers[sent.device]}")
    if len(headers) + (dup is not None) + (qos is not None) != len(record.headers):
        wrong.append(f"{who}: a header is there twice: {record.headers}")
    if dup is not None and (dup != "1" or sent.dup_count == 0):
        wrong.append(f"{who}: mqtt.dup={dup}, but the device sent {sent.dup_count} with DUP")
    if placed[record.key or b""] != record.partition:
        wrong.append(
            f"{who}: on partition {record.partition}, Kafka's partitioner says"
            f" {placed[record.key or b'']}"
        )
    return wrong


def _wrong_count(sent: Sent, found: Sequence[UpstreamRecord]) -> list[str]:
    who = f"{sent.device} {sent.sequence} (QoS {sent.qos})"
    if not found:
        return [f"LOST: {who} was acknowledged and is not upstream"] if sent.is_acknowledged else []
    if len(found) == 1:
        return []
    where = [(record.partition, record.offset) for record in found]
    if sent.qos == 2:
        return [f"TWICE: {who} at {where}"]
    unmarked = [record for record in found if record.header("mqtt.dup") is None]
    wrong = []
    if len(unmarked) > 1:
        wrong.append(f"TWICE: {who} at {where}, {len(unmarked)} of them not marked mqtt.dup")
    if len(found) - len(unmarked) > sent.dup_count or len(found) > sent.sent_count:
        wrong.append(
            f"TWICE: {who} at {where}, sent {sent.sent_count} times, {sent.dup_count} with DUP"
        )
    return wrong
