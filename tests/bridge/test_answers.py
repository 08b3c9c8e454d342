"""What the bridge does with answers to Produce, and which partitions it ships at all."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bridge import Bridge
from bridge.bridge import _Request, shipped_partitions
from bridge.channel import Channel
from bridge.cluster import Lane
from bridge.wire import TopicKey
from log import Log, RecordTemplate, StreamSpec
from tests.bridge.site import Site, config

VERSION = 13
OLD = TopicKey(name="s", id=b"o" * 16)
NEW = TopicKey(name="s", id=b"n" * 16)


def answer(key: TopicKey, *, code: int = 0, throttle_ms: int = 0) -> bytes:
    """For partition 0, in version 13."""
    partition = struct.pack(">ihqqq", 0, code, 0, -1, 0) + b"\x01\x00\x00"
    return b"\x02" + key.id + b"\x02" + partition + b"\0" + struct.pack(">i", throttle_ms) + b"\0"


class Given:
    """A bridge that is not started, one of its channels, and a lane with a request on its way."""

    def __init__(self, site: Site) -> None:
        self.bridge = Bridge(site.log, site.committer, config("127.0.0.1:9"))
        self.bridge._loop = asyncio.get_running_loop()
        self.channel = Channel(
            site.partition(),
            log=site.log,
            committer=site.committer,
            config=config("127.0.0.1:9"),
            rng=Random(1),
            executor=None,  # type: ignore[arg-type]
            changed=lambda: None,
        )
        self.produced: list[int] = []
        self.channel.core.produced = (  # type: ignore[method-assign]
            lambda code, message, now_ms: self.produced.append(code)
        )
        self.channel.topic_key = OLD
        self.given_up = 0
        self.lane = Lane(1)
        self.lane.connection = self  # type: ignore[assignment]
        self.request = _Request(channels=((self.channel, OLD),), version=VERSION)
        self.lane.outstanding.append(self.request)

    def give_up(self) -> None:
        self.given_up += 1

    def answered(self, body: bytes) -> None:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.set_result(body)
        self.bridge._answered(self.lane, self.request, future)


@pytest.fixture
async def given(tmp_path: Path) -> AsyncIterator[Given]:
    async with Site(tmp_path / "data", "s") as site:
        yield Given(site)


async def test_an_answer_is_for_the_topic_it_was_asked_for_though_it_was_made_again(
    given: Given,
) -> None:
    given.channel.topic_key = NEW
    given.answered(answer(OLD))
    assert (given.produced, given.given_up) == ([0], 0)


async def test_an_answer_without_a_partition_of_ours_costs_the_connection(given: Given) -> None:
    given.answered(answer(NEW))
    assert (given.produced, given.given_up) == ([], 1)
    assert list(given.lane.outstanding) == [given.request], "the cores are told when it is closed"


async def test_a_bug_in_taking_an_answer_costs_the_connection_and_nothing_waits(
    given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    given.channel.core.produced = broken  # type: ignore[method-assign, assignment]
    given.answered(answer(OLD))
    assert given.given_up == 1
    assert list(given.lane.outstanding) == [given.request]
    assert "bridge.bug" in caplog.text


async def test_a_broker_that_asks_us_to_wait_is_left_alone_for_so_long(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    picks: list[int] = []

    def pick(lane: Lane, now_ms: int) -> list[Any]:
        picks.append(now_ms)
        return []

    monkeypatch.setattr(given.bridge, "_clock_ms", lambda: 1_000)
    monkeypatch.setattr(given.bridge, "_pick", pick)
    given.answered(answer(OLD, throttle_ms=250))
    given.bridge._fill(given.lane, 1_249)
    assert picks == []
    given.bridge._fill(given.lane, 1_250)
    assert picks == [1_250]


def test_streams_that_are_configured_no_more_are_shipped_while_they_are_on_the_disk(
    tmp_path: Path,
) -> None:
    streams = [StreamSpec(name=name, partition_count=2) for name in ("kept", "removed")]
    log = Log.open(tmp_path, streams)
    log.append(log.partition("removed", 1), RecordTemplate(b"k", ()), [b"v"])
    frame = log.cut()
    assert frame is not None
    log.write([frame])
    log.durable([frame])
    log.close()
    log = Log.open(tmp_path, streams[:1])

    def shipped(**settings: Any) -> set[str]:
        found = shipped_partitions(log, config("127.0.0.1:9", **settings))
        return {f"{each.stream}-{each.index}" for each in found}

    assert shipped() == {"kept-0", "kept-1", "removed-0", "removed-1"}
    assert shipped(streams=frozenset({"kept"})) == {"kept-0", "kept-1"}
    assert shipped(topic_template="all") == {"kept-0", "kept-1"}, "two streams, one topic"
    log.close()
