"""The judge is trusted with the main promise, so it has to find each kind of fault."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cbor2

from tests.e2e.judge import judge
from tests.rigs import UpstreamRecord
from tests.rigs.fleet import FleetLedger, Sent

PLACED = {b"dev": 1}


def reading(sequence: int) -> bytes:
    return cbor2.dumps({"s": sequence, "t": 1})


def sent(sequence: int, *, qos: int = 1, dup_count: int = 0, acknowledged: bool = True) -> Sent:
    return Sent(
        device="dev",
        sequence=sequence,
        qos=qos,
        payload_digest=hashlib.blake2b(reading(sequence), digest_size=12).hexdigest(),
        is_acknowledged=acknowledged,
        sent_count=1 + dup_count,
        dup_count=dup_count,
    )


def ledger(*messages: Sent) -> FleetLedger:
    return FleetLedger(
        headers={"dev": {"mqtt.topic": "a"}},
        messages={(each.device, each.sequence): each for each in messages},
        is_complete=True,
    )


def record(sequence: int, offset: int, *, dup: bool = False, qos: int = 1) -> UpstreamRecord:
    headers: tuple[tuple[str, bytes | None], ...] = (("mqtt.topic", b"a"),)
    if qos != 1:
        headers += (("mqtt.qos", b"%d" % qos),)
    return UpstreamRecord(
        partition=1,
        offset=offset,
        timestamp_ms=0,
        key=b"dev",
        value=reading(sequence),
        headers=(*headers, ("mqtt.dup", b"1")) if dup else headers,
    )


def findings(book: FleetLedger, *records: UpstreamRecord) -> str:
    return "\n".join(judge(book, records, PLACED).findings)


def test_all_there_once_and_in_order_has_no_findings() -> None:
    assert findings(ledger(sent(1), sent(2, qos=2)), record(1, 0), record(2, 1, qos=2)) == ""


def test_a_record_that_tells_another_qos_is_found() -> None:
    assert "mqtt.qos" in findings(ledger(sent(1, qos=2)), record(1, 0))
    assert "mqtt.qos" in findings(ledger(sent(1)), record(1, 0, qos=2))


def test_unacknowledged_message_may_be_there_or_not() -> None:
    assert findings(ledger(sent(1, acknowledged=False))) == ""
    assert findings(ledger(sent(1, acknowledged=False)), record(1, 0)) == ""


def test_missing_message_is_lost() -> None:
    assert "LOST: dev 1" in findings(ledger(sent(1)))


def test_marked_copy_of_a_qos_1_message_is_allowed() -> None:
    assert findings(ledger(sent(1, dup_count=1)), record(1, 0), record(1, 1, dup=True)) == ""


def test_unmarked_copy_is_found() -> None:
    assert "not marked" in findings(ledger(sent(1, dup_count=1)), record(1, 0), record(1, 1))


def test_copy_that_the_device_never_sent_is_found() -> None:
    said = findings(ledger(sent(1, dup_count=0)), record(1, 0), record(1, 1, dup=True))
    assert "TWICE" in said
    assert "0 with DUP" in said


def test_any_copy_of_a_qos_2_message_is_found() -> None:
    book = ledger(sent(1, qos=2, dup_count=1))
    assert "TWICE" in findings(book, record(1, 0), record(1, 1, dup=True))


def test_wrong_order_is_found() -> None:
    assert "out of order" in findings(ledger(sent(1), sent(2)), record(2, 0), record(1, 1))


def test_wrong_partition_value_key_and_headers_are_found() -> None:
    good = record(1, 0)
    assert "partitioner" in findings(ledger(sent(1)), replace(good, partition=2))
    changed = cbor2.dumps({"s": 1, "t": 2})
    assert "value" in findings(ledger(sent(1)), replace(good, value=changed))
    assert "no device ever" in findings(ledger(sent(1)), replace(good, key=b"other"))
    assert "headers" in findings(ledger(sent(1)), replace(good, headers=()))
    twice = (("mqtt.topic", b"a"), ("mqtt.topic", b"a"))
    assert "twice" in findings(ledger(sent(1)), replace(good, headers=twice))
    assert "no reading" in findings(ledger(sent(1)), replace(good, value=b"x"))
