"""The bridge against three brokers: leaders move, replicas lag; nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from confluent_kafka import ElectionType, TopicPartition

from tests.bridge.site import UPSTREAM, Site, assert_exactly_once, config
from tests.rigs import KafkaCluster, need_java, wait_for

pytestmark = need_java

COUNT = 30_000


def _lead_again(kafka: KafkaCluster, topic: str, number: int) -> None:
    """The broker's partition is moved back to it while everybody lives."""
    wait_for(
        lambda: len(kafka.describe(topic)[0].in_sync) == 3, timeout=30, what="all replicas in sync"
    )
    kafka.admin().elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, 0)]).result()
    wait_for(lambda: _leader(kafka, topic) == number, timeout=10, what="the old leader's return")


async def _told(caplog: pytest.LogCaptureFixture, what: str, *, times: int = 1) -> None:
    """Waits until Kafka said so often that this is what it has."""
    for _ in range(1500):
        if sum(what in message for message in caplog.messages) >= times:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what!r} is not in {caplog.messages}")


def _leader(kafka: KafkaCluster, topic: str, index: int = 0) -> int:
    return kafka.describe(topic)[index].leader


async def test_sigkill_of_a_leader_in_the_middle_of_a_drain(
    kafka3: KafkaCluster, tmp_path: Path
) -> None:
    topic = "leader-killed"
    await asyncio.to_thread(kafka3.create_topic, topic, 3)
    victim = await asyncio.to_thread(_leader, kafka3, topic)
    async with Site(tmp_path, topic, partition_count=3) as site:
        await site.publish(COUNT)
        await site.connect(config(kafka3.bootstrap, limits={"read_bytes": 2000}))
        await site.until(lambda status: status.lag_count <= COUNT - 4000)
        try:
            await asyncio.to_thread(kafka3.kill, victim)
            await site.publish(1000, first=COUNT)
            await site.drained(timeout=30)
        finally:
            await asyncio.to_thread(kafka3.restart, victim)
        await site.publish(COUNT, first=COUNT + 1000)
        await site.lag_at_most(COUNT - 4000)
        await asyncio.to_thread(_lead_again, kafka3, topic, victim)
        await site.drained()
    await assert_exactly_once(kafka3.bootstrap, topic, 2 * COUNT + 1000, partition_count=3)


async def test_what_only_a_dying_leader_had_does_not_move_the_cursor_and_is_sent_again(
    kafka3: KafkaCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """KAFKA, rule 1: followers frozen, DescribeProducers says more than the high watermark; then
    the leader dies, and with it what it alone had."""
    topic = "only-the-leader-had-it"
    caplog.set_level("INFO", logger="bridge.control")
    await asyncio.to_thread(kafka3.create_topic, topic, 1)
    leader = await asyncio.to_thread(_leader, kafka3, topic)
    followers = [number for number in (1, 2, 3) if number != leader]
    async with Site(tmp_path, topic) as site:
        await site.publish(10)
        bootstrap = kafka3.bootstrap.split(",")[leader - 1]
        await site.connect(config(bootstrap, request_timeout_ms=3000))
        await site.drained()
        try:
            for number in followers:
                kafka3.freeze(number)
            # The first batch may reach a follower that had asked before it froze; not the second.
            await site.publish(10, first=10)
            await site.until(lambda status: status.partitions[0].in_flight_count == 1)
            await site.publish(10, first=20)
            await site.until(lambda status: status.partitions[0].in_flight_count == 2)
            await _told(caplog, "sequence=29 log_end=30 watermark=10 next=30 cursor=10")
            await site.disconnect()
            await site.connect(config(bootstrap, request_timeout_ms=3000))
            await _told(caplog, "sequence=29 log_end=30 watermark=10 next=30 cursor=10", times=2)
            assert site.status().lag_count == 20
            assert site.log.cursor(UPSTREAM, site.partition()) == 10
            await asyncio.to_thread(kafka3.kill, leader)
        finally:
            for number in followers:
                kafka3.thaw(number)
        try:
            await site.publish(10, first=30)
            await site.drained(timeout=30)
        finally:
            await asyncio.to_thread(kafka3.restart, leader)
        assert site.status().partitions[0].resent_count == 0
    await assert_exactly_once(kafka3.bootstrap, topic, 40)


async def test_frozen_leader_is_left_for_the_new_one(kafka3: KafkaCluster, tmp_path: Path) -> None:
    topic = "leader-frozen"
    await asyncio.to_thread(kafka3.create_topic, topic, 1)
    leader = await asyncio.to_thread(_leader, kafka3, topic)
    async with Site(tmp_path, topic) as site:
        await site.publish(100)
        await site.connect(config(kafka3.bootstrap, request_timeout_ms=2000))
        await site.drained()
        kafka3.freeze(leader)
        try:
            begun = time.monotonic()
            await site.publish(100, first=100)
            await site.drained(timeout=25)
            assert time.monotonic() - begun < 20
        finally:
            kafka3.thaw(leader)
    await asyncio.to_thread(
        wait_for,
        lambda: len(kafka3.describe(topic)[0].in_sync) == 3,
        timeout=60,
        what="all replicas in sync",
    )
    await assert_exactly_once(kafka3.bootstrap, topic, 200)
