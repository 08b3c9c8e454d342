"""The group commit in a real loop on real files: order, participants, failure, congestion."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from log import Log, LogFailed, LogFull
from log.partition import Partition, Sealed, SealJob
from tests.log.helpers import TEMPLATE, spec, values
from tests.log.shells import LIMITS, Publisher, Rig, eventually


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    found = Rig(tmp_path / "data")
    yield found
    await found.stop()


async def test_flush_returns_when_all_is_durable(rig: Rig) -> None:
    rig.append(b"1", b"2")
    rig.log.put_state(b"key", b"value")
    await rig.committer.flush()
    assert values(rig.partition) == [b"1", b"2"]
    assert rig.log.state.get_durable(b"key") == b"value"
    await rig.committer.flush()  # nothing to do


async def test_all_of_one_turn_of_the_loop_shares_a_sync(rig: Rig) -> None:
    before = rig.files.syncs.count("journal")
    for number in range(100):
        rig.append(b"%d" % number)
    await rig.committer.flush()
    assert rig.files.syncs.count("journal") == before + 1
    assert rig.log.stats().frame_count == 1


async def test_what_comes_while_the_disk_is_busy_shares_the_next_sync(rig: Rig) -> None:
    publisher = Publisher(rig)
    rig.files.go.clear()
    before = rig.files.syncs.count("journal")
    publisher.publish(0)
    await asyncio.sleep(0.02)
    for number in range(1, 50):
        publisher.publish(number)
        await asyncio.sleep(0)
    assert publisher.acknowledged == []
    rig.files.go.set()
    await rig.committer.flush()
    assert publisher.acknowledged == list(range(50))
    assert publisher.early == []
    assert rig.files.syncs.count("journal") - before <= 3


async def test_frames_of_a_full_size_go_out_in_order_under_one_sync(rig: Rig) -> None:
    publisher = Publisher(rig)
    rig.files.go.clear()
    publisher.publish(0)
    await asyncio.sleep(0.02)
    for number in range(1, 6):
        publisher.publish(number)
        rig.append(bytes(30_000))
        rig.append(bytes(40_000))  # over frame_bytes_max: the round is closed at once
    rig.files.go.set()
    await rig.committer.flush()
    assert rig.log.stats().frame_count >= 6
    assert publisher.acknowledged == list(range(6))
    assert publisher.early == []
    assert len(values(rig.partition)) == 16


async def test_a_participant_with_nothing_to_store_is_served_after_those_before_it(
    rig: Rig,
) -> None:
    order: list[str] = []

    class Pings:
        pending = False

        def cut(self) -> object | None:
            taken, self.pending = self.pending, False
            return "ping" if taken else None

        def durable(self, token: object) -> None:
            order.append(str(token))

        def failed(self, error: LogFailed) -> None: ...

    class Records(Pings):
        def cut(self) -> object | None:
            taken, self.pending = self.pending, False
            return "record" if taken else None

    pings, records = Pings(), Records()
    rig.committer.add_participant(records)
    rig.committer.add_participant(pings)
    rig.files.go.clear()
    records.pending = True
    rig.append(b"1")
    await asyncio.sleep(0.02)
    pings.pending = True
    rig.committer.request()
    await asyncio.sleep(0.02)
    assert order == []
    rig.files.go.set()
    await eventually(lambda: len(order) == 2)
    assert order == ["record", "ping"]
    pings.pending = True
    rig.committer.request()
    await eventually(lambda: len(order) == 3)


async def test_listeners_are_called_when_there_is_something_to_read(rig: Rig) -> None:
    seen: list[int] = []
    rig.log.add_listener(lambda: seen.append(rig.partition.durable_end))
    rig.append(b"1", b"2")
    await rig.committer.flush()
    assert seen == [2]


async def test_who_gathers_is_asked_before_the_round_is_closed(rig: Rig) -> None:
    gathered = [b"1"]

    def prepare() -> None:
        while gathered:
            rig.log.append(rig.partition, TEMPLATE, [gathered.pop()])

    rig.committer.add_preparer(prepare)
    await rig.committer.flush()
    assert values(rig.partition) == [b"1"]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), RuntimeError("a bug in the thread")]
)
async def test_after_a_failed_sync_nothing_is_acknowledged_any_more(
    tmp_path: Path, error: BaseException
) -> None:
    rig = Rig(tmp_path / "data")
    publisher = Publisher(rig)
    publisher.publish(0)
    await rig.committer.flush()
    rig.files.go.clear()
    publisher.publish(1)
    first = asyncio.ensure_future(rig.committer.flush())
    await asyncio.sleep(0.02)
    publisher.publish(2)  # waits behind the write that fails
    second = asyncio.ensure_future(rig.committer.flush())
    await asyncio.sleep(0.02)
    rig.files.fail_journal = error
    rig.files.go.set()
    for flush in (first, second):
        with pytest.raises(LogFailed, match="nothing is acknowledged any more"):
            await asyncio.wait_for(flush, 10)
    rig.files.fail_journal = None
    assert publisher.failure is rig.log.failure is not None
    assert publisher.acknowledged == [0]
    refusals: tuple[Callable[[], object], ...] = (
        lambda: rig.append(b"3"),
        lambda: rig.log.append_runs(rig.partition, [(TEMPLATE, [b"3"])]),
        lambda: rig.log.put_state(b"key", b"value"),
        lambda: rig.log.set_cursor("name", rig.partition, 1),
    )
    for refused in refusals:
        with pytest.raises(LogFailed):
            refused()
    rig.committer.request()
    await asyncio.sleep(0.02)
    with pytest.raises(LogFailed):
        await rig.committer.flush()
    assert publisher.acknowledged == [0]
    assert values(rig.partition) == [b"0"]
    await rig.stop()
    log = Log.open(tmp_path / "data", [spec()], limits=LIMITS)
    assert values(log.partition("mqtt", 0))[:1] == [b"0"]
    assert log.recovery.lost == []
    log.close()


async def test_a_bug_of_one_participant_costs_the_others_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __init__(self, where: str) -> None:
            self.where = where

        def _maybe(self, where: str) -> str:
            if where == self.where:
                raise ZeroDivisionError
            return "token"

        def cut(self) -> object | None:
            return self._maybe("cut")

        def durable(self, token: object) -> None:
            self._maybe("durable")

        def failed(self, error: LogFailed) -> None: ...

    def bug() -> None:
        raise ZeroDivisionError

    rig.committer.add_participant(Broken("cut"))
    rig.committer.add_participant(Broken("durable"))
    rig.committer.add_preparer(bug)
    rig.log.add_listener(bug)
    publisher = Publisher(rig)
    for number in range(3):
        publisher.publish(number)
        await asyncio.wait_for(rig.committer.flush(), 10)
    assert publisher.acknowledged == [0, 1, 2]
    assert caplog.text.count("log.participant_failed") >= 12


async def test_congestion_ends_with_one_call_of_relief(rig: Rig) -> None:
    rig.files.go.clear()
    relieved: list[bool] = []
    while not rig.committer.congested:
        rig.append(bytes(20_000))
        await asyncio.sleep(0)
        assert rig.log.round_bytes + rig.log.in_flight_bytes < 2 * LIMITS.pending_bytes_max
    rig.committer.on_relief(lambda: relieved.append(rig.committer.congested))
    await asyncio.sleep(0.02)
    assert relieved == []
    rig.files.go.set()
    await rig.committer.flush()
    await eventually(lambda: bool(relieved))
    await asyncio.sleep(0.02)
    assert relieved == [False]


async def flood(rig: Rig, count: int, size: int) -> list[bytes]:
    """Publishes as the server does: not while there is congestion."""
    sent = []
    partitions = rig.log.streams["mqtt"].partitions
    for number in range(count):
        while rig.committer.congested:
            relief = asyncio.Event()
            rig.committer.on_relief(relief.set)
            await asyncio.wait_for(relief.wait(), 20)
        value = b"%d:" % number + bytes(size)
        rig.append(value, partition=partitions[number % len(partitions)])
        sent.append(value)
        if number % 10 == 9:
            await asyncio.sleep(0)
    await asyncio.wait_for(rig.committer.flush(), 20)
    return sent


@pytest.mark.parametrize(("count", "partitions"), [(4000, 1), (4000, 40)])
async def test_a_small_journal_under_load_never_stands_still(
    tmp_path: Path, count: int, partitions: int
) -> None:
    rig = Rig(tmp_path / "data", count=partitions)
    rig.housekeeper.start()
    sent = await flood(rig, count, 2000)
    assert rig.log.stats().journal_written_bytes > 6 * LIMITS.journal_bytes
    await rig.stop()
    log = Log.open(tmp_path / "data", [spec(count=partitions)], limits=LIMITS)
    for number in range(partitions):
        assert values(log.partition("mqtt", number)) == sent[number::partitions]
    log.close()


async def test_records_that_need_the_whole_journal_still_get_through(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data")
    rig.housekeeper.start()
    for _ in range(6):
        rig.append(b"small")
        rig.append(bytes(900_000))
        await asyncio.wait_for(rig.committer.flush(), 20)
    assert rig.partition.durable_end == 12
    await rig.stop()


async def test_a_full_disk_refuses_publishers_before_anything_stands_still_and_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("log.housekeeper.PERIOD_S", 0.05)
    rig = Rig(tmp_path / "data")
    rig.housekeeper.start()
    before = await flood(rig, 50, 2000)
    rig.files.full = True
    taken = 0
    async with asyncio.timeout(20):
        while True:
            try:
                rig.append(b"%d:" % taken + bytes(2000))
                taken += 1
            except LogFull as error:
                assert "make room, shorten" in str(error)
                break
            await asyncio.sleep(0.001)
    assert rig.log.stalled
    assert taken > 100
    rig.log.put_state(b"session", b"still written")  # what the reserve is for
    await asyncio.wait_for(rig.committer.flush(), 10)
    assert not rig.committer.congested, "publishers are refused, not left waiting"
    assert len(values(rig.partition)) == 50 + taken
    rig.files.full = False
    await eventually(lambda: not rig.log.stalled)
    after = await flood(rig, 50, 2000)
    found = values(rig.partition)
    assert (found[:50], found[-50:]) == (before, after)
    await rig.stop()


async def test_a_partition_whose_disk_fails_ends_in_a_refusal_and_not_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("log.housekeeper.PERIOD_S", 0.05)
    rig = Rig(tmp_path / "data", count=2)
    other = rig.log.partition("mqtt", 1)
    found_out = threading.Event()
    failing = [True]

    def write_sealed(job: SealJob) -> Sealed:
        found_out.wait(10)
        if failing[0]:
            raise OSError(errno.EIO, "Input/output error")
        return Partition.write_sealed(rig.partition, job)

    monkeypatch.setattr(rig.partition, "write_sealed", write_sealed, raising=False)
    rig.append(b"on a bad sector")
    await rig.committer.flush()
    rig.housekeeper.start()
    taken = 0
    while not rig.committer.starved:  # the journal is full before anything is known
        rig.append(*[bytes(4000)] * 8, partition=other)
        taken += 8
        await asyncio.sleep(0.001)
    found_out.set()
    await asyncio.wait_for(rig.committer.flush(), 10)
    with pytest.raises(LogFull, match="the disk fails"):
        rig.append(b"one more", partition=other)
    assert not rig.committer.congested, "publishers are refused, not left waiting"
    failing[0] = False
    await eventually(lambda: not rig.log.stalled)
    await flood(rig, 50, 2000)
    await rig.stop()
    assert values(other).count(bytes(4000)) == taken
