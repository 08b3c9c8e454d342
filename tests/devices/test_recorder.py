"""The task between table and store: it batches, survives a failing disk, and ends with a flush."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from devices import DeviceChange, DeviceLimits, DeviceRecorder, DeviceStore, DeviceTable

LIMITS = DeviceLimits(flush_interval_ms=20, busy_timeout_ms=10, pending_max=3)


@contextlib.asynccontextmanager
async def _recorder(path: Path) -> AsyncIterator[DeviceRecorder]:
    store = await DeviceStore.open(path, limits=LIMITS)
    recorder = DeviceRecorder(DeviceTable(LIMITS), store, limits=LIMITS)
    try:
        yield recorder
    finally:
        await recorder.stop()


async def test_changes_reach_the_store_without_being_asked_for(tmp_path: Path) -> None:
    async with _recorder(tmp_path / "devices.db") as recorder:
        recorder.start()
        recorder.table.message_seen("a", "t", b"1", now_ms=1)
        async with asyncio.timeout(5):
            while await recorder.store.device("a") is None:
                await asyncio.sleep(0.01)


async def test_stop_writes_what_is_pending(tmp_path: Path) -> None:
    async with _recorder(tmp_path / "devices.db") as recorder:
        recorder.start()
        recorder.table.message_seen("last", "t", b"1", now_ms=1)
    async with await DeviceStore.open(tmp_path / "devices.db") as store:
        assert await store.device("last") is not None


async def test_a_stop_amid_a_flush_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _recorder(tmp_path / "devices.db") as recorder:
        recorder.start()
        begun = asyncio.Event()
        write = recorder.store.write

        async def slow_write(changes: Sequence[DeviceChange]) -> None:
            begun.set()
            await asyncio.sleep(0.05)
            await write(changes)

        recorder.store.write = slow_write  # type: ignore[method-assign]
        recorder.table.message_seen("a", "t", b"1", now_ms=1)
        await begun.wait()
    async with await DeviceStore.open(tmp_path / "devices.db") as store:
        assert await store.device("a") is not None
        assert store.report.set_aside is None
    assert caplog.text == ""


async def test_a_failed_flush_is_logged_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _recorder(tmp_path / "devices.db") as recorder:
        other = sqlite3.connect(tmp_path / "devices.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        recorder.table.message_seen("a", "t", b"1", now_ms=1, count=7)
        with caplog.at_level(logging.WARNING):
            await recorder.flush()
        assert "devices.flush_failed count=1" in caplog.text
        other.execute("ROLLBACK")
        other.close()
        await recorder.flush()
        device = await recorder.store.device("a")
        assert device is not None
        assert device.message_count == 7


async def test_a_store_that_failed_to_reopen_is_opened_by_a_later_flush(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "devices.db"
    async with _recorder(path) as recorder:
        await recorder.store.close()
        path.rename(tmp_path / "kept")
        path.mkdir()
        recorder.start()
        recorder.table.message_seen("a", "t", b"1", now_ms=1)
        async with asyncio.timeout(5):
            while recorder.failed_flush_count < 2:
                await asyncio.sleep(0.01)
        assert "devices.flush_failed count=1" in caplog.text
        path.rmdir()
        (tmp_path / "kept").rename(path)
        async with asyncio.timeout(5):
            while not recorder.store.is_open or await recorder.store.device("a") is None:
                await asyncio.sleep(0.01)


async def test_a_rollback_that_fails_too_is_logged_and_the_store_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with _recorder(tmp_path / "devices.db") as recorder:
        database = recorder.store._opened()
        monkeypatch.setattr(database, "executemany", fails)
        monkeypatch.setattr(database, "rollback", fails)
        recorder.table.message_seen("a", "t", b"1", now_ms=1)
        await recorder.flush()
        assert "and after that: disk I/O error" in caplog.text
        assert not recorder.store.is_open
        await recorder.flush()
        assert await recorder.store.device("a") is not None


async def test_a_file_set_aside_at_start_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "devices.db").write_bytes(b"rubbish" * 1000)
    with caplog.at_level(logging.WARNING):
        async with _recorder(tmp_path / "devices.db") as recorder:
            recorder.start()
    assert "devices.store_set_aside" in caplog.text


async def test_devices_that_found_no_room_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _recorder(tmp_path / "devices.db") as recorder:
        for name in "abcde":
            recorder.table.message_seen(name, "t", b"1", now_ms=1)
        with caplog.at_level(logging.WARNING):
            await recorder.flush()
            recorder.table.message_seen("a", "t", b"1", now_ms=1)
            await recorder.flush()
        assert caplog.text.count("devices.unrecorded count=2") == 1
