"""What is sealed, saved and removed when, by the housekeeper in a real loop."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from log import Committer, Housekeeper, Log, Retention
from log.partition import Partition, Sealed, SealJob
from tests.log.helpers import TEMPLATE, Clock, spec, values
from tests.log.shells import LIMITS, Rig, TroubledFiles, eventually


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("log.housekeeper.PERIOD_S", 0.05)
    monkeypatch.setattr("log.housekeeper.RETENTION_S", 0.1)


async def test_a_tail_is_sealed_when_it_is_big_enough(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.housekeeper.start()
    rig.append(*[bytes(1000)] * 40)
    await rig.committer.flush()
    await asyncio.sleep(0.2)
    assert rig.partition.sealed_end == 0
    rig.append(*[bytes(1000)] * 40)
    await rig.committer.flush()
    await eventually(lambda: rig.partition.sealed_end > 0)
    assert rig.partition.sealed_end < 80, "the open chunk waits"
    await rig.stop()


async def test_a_small_tail_is_sealed_when_it_is_old(tmp_path: Path) -> None:
    clock = Clock()
    limits = dataclasses.replace(LIMITS, checkpoint_age_ms=50)
    loop = asyncio.get_running_loop()
    log = Log.open(tmp_path, [spec()], limits=limits, now_ms=clock)
    committer = Committer(log, loop)
    housekeeper = Housekeeper(log, committer, loop)
    housekeeper.start()
    partition = log.partition("mqtt", 0)
    log.append(partition, TEMPLATE, [b"1"])
    await committer.flush()
    clock.now_ms += limits.seal_age_ms - 1
    await asyncio.sleep(0.2)
    assert partition.sealed_end == 0
    clock.now_ms += 1
    await eventually(lambda: partition.sealed_end == 1)
    await eventually(lambda: log.journal.used_bytes == 0)
    await housekeeper.stop()
    await committer.close()
    log.close()


async def test_retention_runs_while_frames_keep_coming(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    limits = dataclasses.replace(LIMITS, segment_bytes_max=32 * 1024)
    retention = Retention(bytes_max=100_000, keep_unreplicated=False)
    log = Log.open(tmp_path, [spec(retention=retention)], limits=limits)
    committer = Committer(log, loop)
    housekeeper = Housekeeper(log, committer, loop)
    housekeeper.start()
    partition = log.partition("mqtt", 0)
    async with asyncio.timeout(30):
        while not log.stats().removed_segment_count:
            log.append(partition, TEMPLATE, [bytes(range(256)) * 20])
            await committer.flush()
    await housekeeper.stop()
    await committer.close()
    log.close()


class BadSector(TroubledFiles):
    """Whatever is written to one partition's segments fails."""

    def open(self, path: Path, *, create: bool = False) -> int:
        handle = super().open(path, create=create)
        self._names[handle] = str(path)
        return handle

    def write_at(self, handle: int, position: int, pieces: Sequence[bytes]) -> int:
        if "mqtt-0" in self._names[handle]:
            raise OSError(errno.EIO, "Input/output error")
        return super().write_at(handle, position, pieces)


async def test_a_partition_that_cannot_be_sealed_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, count=2)
    bad = BadSector()
    bad.full = True
    rig.partition._files = bad
    rig.partition.segments[-1]._files = bad
    rig.partition.segments[-1].close()
    rig.housekeeper.start()
    other = rig.log.partition("mqtt", 1)
    rig.append(*[bytes(1000)] * 100)
    rig.append(*[bytes(1000)] * 100, partition=other)
    await rig.committer.flush()
    await eventually(lambda: other.sealed_end > 0)
    assert rig.partition.sealed_end == 0
    assert "the disk fails" in rig.log.stalled
    assert "disk.failing" in caplog.text
    rig.partition.segments[-1].close()
    rig.partition._files = rig.partition.segments[-1]._files = rig.files
    await eventually(lambda: rig.partition.sealed_end > 0)
    await rig.stop()


async def test_a_bug_in_a_step_is_logged_and_does_not_end_housekeeping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    right = Partition.write_sealed

    def wrong(partition: Partition, job: SealJob) -> Sealed:
        monkeypatch.setattr(Partition, "write_sealed", right)
        raise ZeroDivisionError

    monkeypatch.setattr(Partition, "write_sealed", wrong)
    rig.housekeeper.start()
    rig.append(*[bytes(1000)] * 100)
    await rig.committer.flush()
    await eventually(lambda: rig.partition.sealed_end > 0)
    assert "housekeeping.failed" in caplog.text
    await rig.stop()


async def test_a_round_that_waits_for_room_does_not_keep_older_records_from_being_sealed(
    tmp_path: Path,
) -> None:
    """The round's record is in the open chunk of records that fill the journal: only sealing those
    makes room, and the chunk is not whole before the round is durable.
    """
    rig = Rig(tmp_path, count=2)
    rig.append(b"first")
    await rig.committer.flush()
    other = rig.log.partition("mqtt", 1)
    while rig.log.journal.fits(20_000 + LIMITS.journal_reserve_bytes):
        rig.append(bytes(16_000), partition=other)
        await rig.committer.flush()
    rig.append(b"second")
    rig.append(bytes(20_000), partition=other)
    flush = asyncio.ensure_future(rig.committer.flush())
    await eventually(lambda: rig.committer.starved)
    assert rig.committer.congested
    rig.housekeeper.start()
    await asyncio.wait_for(flush, 10)
    assert values(rig.partition) == [b"first", b"second"]
    await rig.stop()


async def test_room_is_made_although_nothing_was_synced_since_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    while rig.log.journal.fits(30_000 + LIMITS.journal_reserve_bytes):
        rig.append(bytes(16_000))
        await rig.committer.flush()
    rig.log.checkpointed(rig.log.write_checkpoint(rig.log.checkpoint()))
    rig.housekeeper._checkpointed_sequence = rig.log.journal.synced_sequence
    rig.append(bytes(30_000))
    flush = asyncio.ensure_future(rig.committer.flush())
    await eventually(lambda: rig.committer.starved)
    rig.housekeeper.start()
    await asyncio.wait_for(flush, 10)
    await rig.stop()


async def test_a_round_that_needs_all_of_a_journal_that_is_hardly_used_gets_it(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    while rig.log.journal.used_bytes * 10 < rig.log.journal.capacity_bytes * 3:
        rig.append(bytes(5_000))
        await rig.committer.flush()
    rig.append(bytes(900_000))
    flush = asyncio.ensure_future(rig.committer.flush())
    await eventually(lambda: rig.committer.starved)
    rig.housekeeper.start()
    await asyncio.wait_for(flush, 10)
    await rig.stop()


async def test_stopping_while_the_disk_is_in_trouble_does_not_take_long(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.housekeeper.start()
    rig.files.full = True
    rig.append(*[bytes(1000)] * 100)
    await rig.committer.flush()
    await eventually(lambda: bool(rig.log.stalled))
    await asyncio.wait_for(rig.housekeeper.stop(), 2)
    await rig.committer.close()
    rig.files.full = False
    rig.log.close()
