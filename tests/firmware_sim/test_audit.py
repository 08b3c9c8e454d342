"""An auditor is worth something if it finds what is planted: each fault is planted here once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from audit import Auditor, AuditReport, UpstreamRecord
from kafka_place import partition_of
from ledger import DeviceEntry, Ledger, MessageEntry, digest
from payload import encode_reading

PARTITIONS = 3
DEVICES = ("dev-a", "dev-b")
SEQS = range(1, 6)

Plant = Callable[[list[UpstreamRecord], Ledger], None]


def payload(device: str, seq: int) -> bytes:
    return encode_reading(seq, 1000 + seq, {"temp": 20.5, "from": device})


def topic(device: str) -> str:
    return f"site/x/{device}/reading"


def sound() -> tuple[list[UpstreamRecord], Ledger]:
    """Two devices, five messages each, all acknowledged, all upstream, QoS 1 and 2 in turn."""
    ledger, records = Ledger(), []
    offsets = dict.fromkeys(range(PARTITIONS), 0)
    for device in DEVICES:
        headers = {"mqtt.topic": topic(device), "fw": "1"}
        ledger.devices[device] = DeviceEntry(
            name=device, protocol="5.0", profile="p", topic=topic(device), headers=headers
        )
        for seq in SEQS:
            value = payload(device, seq)
            ledger.messages[device, seq] = MessageEntry(
                device=device,
                seq=seq,
                qos=1 + seq % 2,
                digest=digest(value),
                size_bytes=len(value),
                published_ms=100 * seq,
                sent_count=1,
                first_sent_ms=100 * seq,
                acknowledged_ms=100 * seq + 5,
            )
            partition = partition_of(device.encode(), PARTITIONS)
            records.append(
                UpstreamRecord(
                    partition=partition,
                    offset=offsets[partition],
                    key=device.encode(),
                    value=value,
                    headers={name: text.encode() for name, text in headers.items()},
                    seen_ms=100 * seq + 10 * seq,
                )
            )
            offsets[partition] += 1
    return records, ledger


def audited(plant: Plant | None = None) -> AuditReport:
    records, ledger = sound()
    if plant is not None:
        plant(records, ledger)
    auditor = Auditor(partition_count=PARTITIONS)
    for record in records:
        auditor.feed(record)
    return auditor.report(ledger)


def copy_of(records: list[UpstreamRecord], index: int, **headers: bytes) -> UpstreamRecord:
    """A second copy at the end of its partition; keyword mqtt_dup stands for mqtt.dup."""
    added = {name.replace("_", ".", 1): value for name, value in headers.items()}
    record = records[index]
    return replace(record, offset=99, headers={**record.headers, **added})


def test_a_sound_run_passes() -> None:
    report = audited()
    assert report.passed
    assert (report.published, report.acknowledged, report.upstream) == (10, 10, 10)
    assert report.duplicated == 0


def lose(records: list[UpstreamRecord], _: Ledger) -> None:
    del records[2]


def lose_unacknowledged(records: list[UpstreamRecord], ledger: Ledger) -> None:
    del records[2]
    ledger.messages["dev-a", 3].acknowledged_ms = None


def double_qos_1_with_dup(records: list[UpstreamRecord], ledger: Ledger) -> None:
    ledger.messages["dev-a", 2].sent_count = 2
    records.append(copy_of(records, 1, mqtt_dup=b"1"))


def double_qos_1_without_dup(records: list[UpstreamRecord], ledger: Ledger) -> None:
    ledger.messages["dev-a", 2].sent_count = 2
    records.append(copy_of(records, 1))


def double_more_often_than_sent(records: list[UpstreamRecord], ledger: Ledger) -> None:
    ledger.messages["dev-a", 2].sent_count = 2
    records.extend(copy_of(records, 1, mqtt_dup=b"1") for _ in range(2))


def double_qos_2(records: list[UpstreamRecord], ledger: Ledger) -> None:
    ledger.messages["dev-a", 3].sent_count = 2
    records.append(copy_of(records, 2, mqtt_dup=b"1"))


def double_marked_by_the_bridge(records: list[UpstreamRecord], _: Ledger) -> None:
    records.append(copy_of(records, 2, sluicegate_resent=b"1"))


def swap_two(records: list[UpstreamRecord], _: Ledger) -> None:
    records[1], records[3] = (
        replace(records[3], offset=records[1].offset),
        replace(records[1], offset=records[3].offset),
    )


def change_key(records: list[UpstreamRecord], _: Ledger) -> None:
    records[0] = replace(records[0], key=b"other")


def change_topic(records: list[UpstreamRecord], _: Ledger) -> None:
    records[0] = replace(records[0], headers={**records[0].headers, "mqtt.topic": b"elsewhere"})


def swap_topics(records: list[UpstreamRecord], _: Ledger) -> None:
    headers = {**records[0].headers, "mqtt.topic": topic("dev-b").encode()}
    records[0] = replace(records[0], headers=headers)


def drop_header(records: list[UpstreamRecord], _: Ledger) -> None:
    headers = {k: v for k, v in records[0].headers.items() if k != "fw"}
    records[0] = replace(records[0], headers=headers)


def change_partition(records: list[UpstreamRecord], _: Ledger) -> None:
    records[0] = replace(records[0], partition=(records[0].partition + 1) % PARTITIONS)


def change_value(records: list[UpstreamRecord], _: Ledger) -> None:
    records[0] = replace(records[0], value=encode_reading(1, 1001, {"temp": 99}))


def destroy_value(records: list[UpstreamRecord], _: Ledger) -> None:
    records[0] = replace(records[0], value=b"\xff")


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (lose, {"lost": 1}),
        (lose_unacknowledged, {}),
        (double_qos_1_with_dup, {"duplicated_explained": 1}),
        (double_qos_1_without_dup, {"duplicated_unexplained": 1}),
        (double_more_often_than_sent, {"duplicated_explained": 1, "duplicated_unexplained": 1}),
        (double_qos_2, {"duplicated_unexplained": 1}),
        (double_marked_by_the_bridge, {"duplicated_marked": 1}),
        (swap_two, {"out_of_order": 2}),
        (change_key, {"wrong_key": 1}),
        (change_topic, {"wrong_topic": 1}),
        (swap_topics, {"wrong_topic": 1}),
        (drop_header, {"wrong_headers": 1}),
        (change_partition, {"wrong_partition": 1}),
        (change_value, {"wrong_value": 1}),
        (destroy_value, {"wrong_value": 1, "lost": 1}),
    ],
)
def test_a_planted_fault_is_found_and_nothing_else(plant: Plant, found: dict[str, int]) -> None:
    report = audited(plant)
    counts: dict[str, Any] = {
        name: value["count"]
        for name, value in report.as_dict().items()
        if isinstance(value, dict) and value["count"]
    }
    assert counts == found
    harmless = {"duplicated_explained", "duplicated_marked"}
    assert report.passed == (not set(found) - harmless)


def test_foreign_records_are_counted_and_harmless() -> None:
    def plant(records: list[UpstreamRecord], _: Ledger) -> None:
        records.append(
            UpstreamRecord(partition=0, offset=500, key=b"me", value=b"hi", headers={}, seen_ms=0)
        )

    report = audited(plant)
    assert report.foreign.count == 1
    assert report.passed


def test_a_message_refused_once_may_come_late() -> None:
    def plant(records: list[UpstreamRecord], ledger: Ledger) -> None:
        ledger.messages["dev-a", 2].refused_count = 1
        records[1], records[2] = (
            replace(records[2], offset=records[1].offset),
            replace(records[1], offset=records[2].offset),
        )

    assert audited(plant).passed


def test_latency_is_from_first_transmission_to_first_sight() -> None:
    report = audited()
    assert report.latency_ms(0.50) == 30
    assert report.latency_ms(0.99) == 50
    assert report.latency_ms(0.99, outside=[(450, 600)]) == 40
    assert report.latency_ms(0.99, outside=[(0, 600)]) is None
