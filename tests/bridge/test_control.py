"""How often the bridge asks for metadata while something is in the way. The clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from bridge.channel import Channel
from bridge.cluster import Cluster
from bridge.control import Control
from bridge.errors import Unreachable
from bridge.messages import Broker, Metadata, Topic
from tests.bridge.site import Site, config


class Upstream(Cluster):
    """It answers, without a socket: the topic is not there and cannot be made."""

    now_ms = 1_000_000
    is_away = False
    refresh_count = 0
    create_count = 0

    async def refresh(self, topics: Sequence[str]) -> Metadata:
        self.refresh_count += 1
        if self.is_away:
            raise Unreachable("away")
        self.metadata_ms = self.last_answer_ms = self.now_ms
        self.metadata = Metadata(
            cluster_id="c",
            brokers={1: Broker(id=1, host="127.0.0.1", port=9)},
            topics={name: Topic(name=name, id=b"", code=3, leaders={}) for name in topics},
        )
        return self.metadata

    async def create_topics(self, partition_counts: object) -> dict[str, str]:
        self.create_count += 1
        return {"s": "INVALID_REPLICATION_FACTOR"}

    async def tells_producers(self) -> bool:
        raise Unreachable("not asked here")


def control(site: Site) -> tuple[Control, Upstream]:
    settings = config("127.0.0.1:9")

    def nothing(*_: object) -> None: ...

    def clock() -> int:
        return upstream.now_ms

    upstream = Upstream(
        settings, clock_ms=clock, rng=Random(1), lane_opened=nothing, lane_lost=nothing
    )
    channel = Channel(
        site.partition(),
        log=site.log,
        committer=site.committer,
        config=settings,
        rng=Random(1),
        executor=None,  # type: ignore[arg-type]
        changed=nothing,
    )
    made = Control(
        [channel],
        cluster=upstream,
        log=site.log,
        committer=site.committer,
        config=settings,
        clock_ms=clock,
        rng=Random(1),
        changed=nothing,
    )
    return made, upstream


async def test_a_topic_that_cannot_be_made_is_asked_for_less_and_less(tmp_path: Path) -> None:
    async with Site(tmp_path / "data", "s") as site:
        made, upstream = control(site)
        end_ms = upstream.now_ms + 120_000
        while upstream.now_ms < end_ms:
            upstream.now_ms += await made._turn()
            await asyncio.sleep(0)
        # It was 300: every 400 ms. The probe that keeps the connection alive alone makes 12.
        assert 8 <= upstream.create_count <= 25
        before = upstream.create_count
        made.leaders_moved()
        await made._turn()
        assert upstream.create_count == before + 1, "news are looked at at once"


async def test_news_that_could_not_be_looked_at_are_not_forgotten(tmp_path: Path) -> None:
    async with Site(tmp_path / "data", "s") as site:
        made, upstream = control(site)
        await made._turn()
        upstream.is_away = True
        upstream.now_ms += 1_000
        made.leaders_moved()
        with pytest.raises(Unreachable):
            await made._turn()
        upstream.is_away = False
        before = upstream.refresh_count
        await made._turn()
        assert upstream.refresh_count > before
