"""The bridge against Apache Kafka, one node; what is there afterwards is read by its consumer."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import pytest
from kio.schema.alter_client_quotas.v1.request import (
    AlterClientQuotasRequest,
    EntityData,
    EntryData,
    OpData,
)
from kio.static.primitive import f64

from bridge import RESENT_HEADER, TIMESTAMP_HEADER, BridgeStatus
from bridge.connection import Connection
from log import Retention, parse_header
from tests.bridge.site import (
    UPSTREAM,
    Site,
    SiteProcess,
    assert_exactly_once,
    config,
    numbers,
    upstream,
)
from tests.rigs import KafkaCluster, free_port, jars, need_java

pytestmark = need_java

_CRC_TO_PRODUCER = slice(21, 43)
_BEHIND_PRODUCER = slice(57, None)
COUNT = 20_000


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """One of its own for each test."""
    return f"{request.node.originalname[5:45]}-{time.monotonic_ns() % 10**6}"


def _stored_upstream(kafka: KafkaCluster, topic: str) -> list[bytes]:
    """The batches in the broker's own log file."""
    (file,) = (kafka.data_directory() / f"{topic}-0").glob("*0.log")
    data, batches, position = file.read_bytes(), [], 0
    while position < len(data):
        size = parse_header(data, position).size_bytes
        batches.append(data[position : position + size])
        position += size
    return batches


async def test_sealed_batches_arrive_byte_for_byte_in_a_topic_made_for_them(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    async with Site(tmp_path, topic) as site:
        await site.publish(COUNT)
        site.seal()
        await site.connect(config(kafka.bootstrap))
        await site.drained()
        await site.disconnect()
        ours = site.partition().read(0, bytes_max=1 << 30)
    theirs = _stored_upstream(kafka, topic)
    assert len(ours) == len(theirs) > 1
    for mine, stored in zip(ours, theirs, strict=True):
        assert mine.data[_CRC_TO_PRODUCER] == stored[_CRC_TO_PRODUCER]
        assert mine.data[_BEHIND_PRODUCER] == stored[_BEHIND_PRODUCER]
    records = await assert_exactly_once(kafka.bootstrap, topic, COUNT)
    assert records[0].key == b"device-0"
    assert records[0].headers == (("mqtt.topic", b"t/0"),)


async def test_topic_is_made_with_the_streams_partitions_and_each_goes_to_its_own(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    async with Site(tmp_path, topic, partition_count=3) as site:
        await site.publish(COUNT)
        upstream_config = config(
            kafka.bootstrap, topic_template="{site}.{gateway}.{stream}", site="s", gateway="g"
        )
        await site.connect(upstream_config)
        status = await site.drained()
        assert status.connected
        assert {each.state for each in status.partitions} == {"everything is upstream"}
    records = await assert_exactly_once(kafka.bootstrap, f"s.g.{topic}", COUNT, partition_count=3)
    assert {(each.partition, each.key) for each in records} == {
        (index, b"device-%d" % index) for index in range(3)
    }


async def test_live_records_arrive_soon_and_are_not_sent_one_by_one(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    async with Site(tmp_path, topic) as site:
        await site.publish(1)
        await site.connect(config(kafka.bootstrap, linger_ms=20))
        await site.drained()
        began_requests = site.status().request_count
        for n in range(1, 200):
            await site.publish(1, first=n)
            await asyncio.sleep(0.002)
        begun = time.monotonic()
        await site.drained()
        assert time.monotonic() - begun < 0.5
        assert site.status().request_count - began_requests < 100
    await assert_exactly_once(kafka.bootstrap, topic, 200)


async def test_an_upstream_that_is_absent_at_the_start_is_no_error(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    port = free_port()
    async with Site(tmp_path, topic) as site:
        await site.publish(1000)
        await site.connect(config(f"127.0.0.1:{port}"))
        status = await site.until(lambda status: status.error)
        assert not status.connected
        assert status.lag_count == 1000
        assert str(port) in str(status.error)
        await site.disconnect()
        await site.connect(config(kafka.bootstrap))
        await site.drained()
    await assert_exactly_once(kafka.bootstrap, topic, 1000)


async def test_a_link_cut_in_the_middle_of_a_drain_loses_and_doubles_nothing(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    async with Site(tmp_path, topic, partition_count=3) as site:
        await site.publish(COUNT)
        await site.connect(config(kafka.uplink_bootstrap, limits={"read_bytes": 2000}))
        try:
            for sent in (2_000, 9_000):
                await site.lag_at_most(COUNT - sent)
                kafka.cut_uplink()
                await asyncio.sleep(0.3)
                assert not site.status().connected
                kafka.restore_uplink()
        finally:
            kafka.restore_uplink()
        await site.drained()
    await assert_exactly_once(kafka.bootstrap, topic, COUNT, partition_count=3)


@pytest.mark.parametrize("is_down_for_s", [3.5])
async def test_a_silent_link_is_given_up_and_used_again_within_5_s_of_its_return(
    kafka: KafkaCluster, tmp_path: Path, topic: str, is_down_for_s: float
) -> None:
    async with Site(tmp_path, topic) as site:
        await site.publish(100)
        await site.connect(config(kafka.uplink_bootstrap, request_timeout_ms=1500))
        await site.drained()
        try:
            kafka.blackhole_uplink()
            await site.publish(100, first=100)
            await site.until(lambda status: not status.connected, timeout=4)
            await asyncio.sleep(is_down_for_s)
        finally:
            kafka.restore_uplink()
        await site.drained(timeout=5)
        assert site.status().connected
    await assert_exactly_once(kafka.bootstrap, topic, 200)


async def test_sigkill_between_produce_and_cursor_neither_loses_nor_doubles(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    never = {"cursor_commit_ms": 1_000_000, "read_bytes": 3000}
    process = await asyncio.to_thread(
        SiteProcess, tmp_path, topic, kafka.bootstrap, count=COUNT, limits=never
    )
    try:
        await asyncio.to_thread(process.wait_until_sent, 2000)
    finally:
        process.kill()
    async with Site(tmp_path, topic) as site:
        assert site.log.cursor(UPSTREAM, site.partition()) is None
        await site.connect(config(kafka.bootstrap))
        status = await site.drained()
        assert status.partitions[0].resent_count == 0
        assert status.partitions[0].sent_count < COUNT
    await assert_exactly_once(kafka.bootstrap, topic, COUNT)


async def test_sigkill_of_the_broker_in_the_middle_of_a_drain(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    async with Site(tmp_path, topic) as site:
        await site.publish(COUNT)
        await site.connect(config(kafka.bootstrap, limits={"read_bytes": 2000}))
        await site.until(lambda status: status.lag_count <= COUNT - 4000)
        await asyncio.to_thread(kafka.kill, 1)
        await site.publish(1000, first=COUNT)
        await asyncio.to_thread(kafka.restart, 1)
        await site.drained()
    await assert_exactly_once(kafka.bootstrap, topic, COUNT + 1000)


def _forget_producers_after(kafka: KafkaCluster, expiration_ms: int) -> None:
    """Brokers' default, changed while they run; only Kafka's own tool can name the default."""
    where = ["--bootstrap-server", kafka.bootstrap, "--entity-type", "brokers", "--entity-default"]
    what = ["--alter", "--add-config", f"producer.id.expiration.ms={expiration_ms}"]
    java = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{jars()}/*"]
    subprocess.run(
        [*java, "kafka.admin.ConfigCommand", *where, *what], check=True, capture_output=True
    )


async def test_what_kafka_forgot_after_a_crash_is_sent_again_marked_and_nothing_else_is(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    async with Site(tmp_path, topic) as site:
        await site.publish(1000)
        await site.connect(config(kafka.bootstrap))
        await site.drained()
        await asyncio.to_thread(_forget_producers_after, kafka, 1000)
        try:
            await asyncio.sleep(2.5)
            await site.publish(1000, first=1000)
            assert (await site.drained()).partitions[0].resent_count == 0
            await site.disconnect()
            site.log.set_cursor(UPSTREAM, site.partition(), 1900)  # the crash came before the last
            await site.committer.flush()
            await asyncio.sleep(2.5)
        finally:
            await asyncio.to_thread(_forget_producers_after, kafka, 86_400_000)
        await site.connect(config(kafka.bootstrap))
        assert (await site.drained()).partitions[0].resent_count == 100
    records = await upstream(kafka.bootstrap, topic)
    assert numbers(records) == [*range(2000), *range(1900, 2000)]
    marked = [each for each in records if each.header(RESENT_HEADER.decode()) == b"1"]
    assert marked == records[2000:]


async def test_where_the_topic_was_made_anew_what_may_be_there_is_sent_again_marked(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    """KAFKA: with no state the broker takes anything, so only the mark tells."""
    async with Site(tmp_path, topic) as site:
        await site.publish(1000)
        await site.connect(config(kafka.bootstrap))
        await site.drained()
        await site.disconnect()
        # The crash came before the last cursor, and the state upstream did not outlive the pause.
        site.log.set_cursor(UPSTREAM, site.partition(), 900)
        await site.committer.flush()
        await asyncio.to_thread(kafka.delete_topic, topic)
        await site.publish(100, first=1000)
        await site.connect(config(kafka.bootstrap))
        status = await site.drained()
    records = await upstream(kafka.bootstrap, topic)
    assert numbers(records) == list(range(900, 1100))
    marked = [each for each in records if each.header(RESENT_HEADER.decode()) == b"1"]
    assert numbers(marked)[:100] == list(range(900, 1000))
    assert status.partitions[0].resent_count == len(marked)


async def test_what_retention_took_before_it_was_sent_is_counted_and_passed_over(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    """A hole in the sequence is 45 to the old producer: a new one goes on behind it."""
    small = Retention(bytes_max=20_000, keep_unreplicated=False)
    async with Site(tmp_path, topic, retention=small, segment_bytes_max=10_000) as site:
        await site.publish(1000)
        await site.connect(config(kafka.uplink_bootstrap))
        await site.drained()
        kafka.cut_uplink()
        try:
            for first in range(1000, 21_000, 2000):
                await site.publish(2000, first=first)
                site.seal()
            assert site.log.expire() > 0
            site.log.delete_expired()
        finally:
            kafka.restore_uplink()
        status = await site.drained()
    found = numbers(await upstream(kafka.bootstrap, topic))
    (partition,) = status.partitions
    assert partition.dropped_count == 21_000 - len(found) > 0
    assert partition.renewed_count == 1
    assert found == [*range(1000), *range(1000 + partition.dropped_count, 21_000)]


async def test_batches_over_the_topics_limit_are_cut_until_they_pass(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    """KAFKA: 10 MESSAGE_TOO_LARGE."""
    settings = {"max.message.bytes": "1500"}
    await asyncio.to_thread(kafka.create_topic, topic, 1, settings=settings)
    async with Site(tmp_path, topic) as site:
        await site.publish(2000)
        await site.connect(config(kafka.bootstrap, compression_level=None))
        await site.drained()
    await assert_exactly_once(kafka.bootstrap, topic, 2000)


async def test_a_record_over_the_topics_limit_stops_its_partition_loudly_and_no_other(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    settings = {"max.message.bytes": "500"}
    await asyncio.to_thread(kafka.create_topic, topic, 2, settings=settings)
    async with Site(tmp_path, topic, partition_count=2) as site:
        await site.publish(1, run=1, size=3000)
        await site.publish(50, first=50)
        await site.connect(config(kafka.bootstrap, compression_level=None))
        status = await site.until(
            lambda s: s.partitions[0].state.startswith("stuck") and not s.partitions[1].lag_count
        )
        assert "max.message.bytes" in str(status.partitions[0].error)
        assert status.partitions[0].lag_count == 1


@pytest.mark.parametrize("is_gateway_right_again", [True, False])
async def test_a_timestamp_the_broker_refuses_is_replaced_and_kept_in_a_header(
    kafka: KafkaCluster, tmp_path: Path, topic: str, is_gateway_right_again: bool
) -> None:
    """KAFKA: 32 INVALID_TIMESTAMP, two hours ahead of the broker's clock."""
    ahead_ms = time.time_ns() // 1_000_000 + 7_200_000
    async with Site(tmp_path, topic, now_ms=lambda: ahead_ms) as site:
        await site.publish(300)
        await site.connect(config(kafka.bootstrap))
        await site.drained()
    records = await assert_exactly_once(kafka.bootstrap, topic, 300)
    kept = {each.header(TIMESTAMP_HEADER.decode()) for each in records}
    assert kept == {str(ahead_ms).encode()}
    assert all(each.timestamp_ms < ahead_ms for each in records)


async def test_stop_leaves_the_cursor_durable(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    async with Site(tmp_path, topic) as site:
        await site.publish(500)
        await site.connect(config(kafka.bootstrap, limits={"cursor_commit_ms": 1_000_000}))
        await site.drained()
        await site.disconnect()
        assert site.log.cursor(UPSTREAM, site.partition()) == 500
    async with Site(tmp_path, topic) as site:
        assert site.log.cursor(UPSTREAM, site.partition()) == 500


async def test_held_memory_is_bounded_whatever_the_backlog(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    bound = 1_000_000
    async with Site(tmp_path, topic, partition_count=3) as site:
        await site.publish(30_000, size=200)
        limits = {"memory_bytes_max": bound, "read_bytes": 300_000}
        await site.connect(config(kafka.bootstrap, limits=limits, compression_level=None))
        held = 0
        while site.status().lag_count:
            held = max(held, site.status().held_bytes)
            await asyncio.sleep(0)
        assert 0 < held <= bound
    await assert_exactly_once(kafka.bootstrap, topic, 30_000, partition_count=3)


@pytest.mark.parametrize("gone", [("checkpoint",), ("checkpoint", "journal")])
async def test_what_is_sent_again_after_the_state_was_lost_says_so(
    kafka: KafkaCluster, tmp_path: Path, topic: str, gone: tuple[str, ...]
) -> None:
    """Without the cursor and the producer id nobody can tell what is upstream already."""
    async with Site(tmp_path, topic) as site:
        await site.publish(200)
        site.seal()
        await site.connect(config(kafka.bootstrap))
        await site.drained()
    for path in tmp_path.iterdir():
        if path.name.startswith(gone):
            path.unlink()
    async with Site(tmp_path, topic) as site:
        is_lost = site.log.recovery.state_lost
        await site.publish(100, first=200)
        await site.connect(config(kafka.bootstrap))
        await site.drained()
    records = await upstream(kafka.bootstrap, topic)
    again = [each for each in records if each.header(RESENT_HEADER.decode()) is not None]
    if is_lost:
        assert numbers(records) == [*range(200), *range(300)]
        assert numbers(again) == list(range(200))
    else:
        # The journal still had every change: nothing was lost, and nothing is sent again.
        assert numbers(records) == list(range(300))
        assert again == []
    assert is_lost == ("journal" in gone)


async def _limit(bootstrap: str, bytes_per_s: float, *, remove: bool = False) -> None:
    """A quota for what our client id produces; `remove`: none."""
    settings = config(bootstrap)
    connection = Connection(settings.bootstrap[0], settings, lambda _: None)
    await connection.open(connect_timeout_ms=5_000)
    entity = EntityData(entity_type="client-id", entity_name=settings.client_id)
    quota = OpData(key="producer_byte_rate", value=f64(bytes_per_s), remove=remove)
    entry = EntryData(entity=(entity,), ops=(quota,))
    await connection.ask(AlterClientQuotasRequest(entries=(entry,), validate_only=False))
    connection.give_up()


async def test_a_quota_is_kept_by_waiting_and_nothing_is_sent_twice_for_it(
    kafka: KafkaCluster, tmp_path: Path, topic: str
) -> None:
    quiet: set[int] = set()
    await _limit(kafka.bootstrap, 2_000.0)
    try:
        async with Site(tmp_path, topic) as site:
            bridge = await site.connect(config(kafka.bootstrap))
            await site.publish(10_000, size=100)

            def drained(status: BridgeStatus) -> bool:
                if bridge._cluster is not None:
                    quiet.update(lane.quiet_until_ms for lane in bridge._cluster.lanes())
                return status.lag_count == 0

            await site.until(drained, timeout=60)
        assert quiet > {0}, "the broker asked for it"
        await assert_exactly_once(kafka.bootstrap, topic, 10_000)
    finally:
        await _limit(kafka.bootstrap, 1.0, remove=True)
