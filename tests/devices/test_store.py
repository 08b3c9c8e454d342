"""The table on disk: batches, presence over restarts, and files that are not what they should."""

import os
import sqlite3
from pathlib import Path

import pytest

from devices import DeviceLimits, DeviceStore, DeviceTable, PreviewKind, StoreClosed, StoreFailed


def _changes(*names: str, now_ms: int = 5, count: int = 1) -> DeviceTable:
    table = DeviceTable()
    for name in names:
        table.client_connected(name, protocol="5.0", address="10.0.0.9:1", now_ms=now_ms)
        table.message_seen(name, f"site/{name}", b'{"t":1}', now_ms=now_ms + 1, count=count)
    return table


async def test_what_was_written_is_read_back_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "devices.db"
    async with await DeviceStore.open(path) as store:
        await store.write(_changes("a", count=3).drain())
        await store.write(_changes("a", "b", now_ms=50).drain())
        assert await store.counts() == (2, 2)
    async with await DeviceStore.open(path) as store:
        device = await store.device("a")
        assert device is not None
        assert (device.message_count, device.first_seen_ms, device.connected_ms) == (4, 5, 50)
        assert (device.protocol, device.last_topic) == ("5.0", "site/a")
        shown = device.preview()
        assert shown is not None
        assert (shown.kind, shown.text) == (PreviewKind.JSON, '{"t": 1}')
        assert await store.device("unheard-of") is None
        assert store.report.set_aside is None


async def test_nobody_is_connected_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "devices.db"
    async with await DeviceStore.open(path) as store:
        await store.write(_changes("a").drain())
    async with await DeviceStore.open(path) as store:
        assert await store.counts() == (1, 0)


async def test_a_disconnect_alone_keeps_what_was_known(tmp_path: Path) -> None:
    async with await DeviceStore.open(tmp_path / "devices.db") as store:
        await store.write(_changes("a").drain())
        table = DeviceTable()
        table.client_disconnected("a", now_ms=77)
        await store.write(table.drain())
        device = await store.device("a")
        assert device is not None
        assert (device.connected, device.disconnected_ms) == (False, 77)
        assert (device.last_topic, device.message_count) == ("site/a", 1)


async def test_a_message_alone_does_not_change_presence(tmp_path: Path) -> None:
    async with await DeviceStore.open(tmp_path / "devices.db") as store:
        await store.write(_changes("a").drain())
        table = DeviceTable()
        table.message_seen("a", "t", b"", now_ms=78)
        await store.write(table.drain())
        device = await store.device("a")
        assert device is not None
        assert device.connected is True


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"this is not a database, it only looks like a file" * 50),
        lambda path: path.write_bytes(b"\x00" * 8192),
        lambda path: _overwrite(path, 4096, b"\xff" * 3000),
        lambda path: _overwrite(path, 0, b"\x00" * 100),
        lambda path: os.truncate(path, 5000),
        lambda path: path.write_bytes(path.read_bytes().replace(b"device-7", b"zevice-7")),
    ],
    ids=["text", "zeros", "page", "header", "truncated", "order"],
)
async def test_a_corrupt_file_is_set_aside_and_made_anew(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "devices.db"
    async with await DeviceStore.open(path) as store:
        await store.write(_changes(*(f"device-{i}" for i in range(200))).drain())
    assert callable(damage)
    damage(path)
    async with await DeviceStore.open(path) as store:
        assert store.report.set_aside == tmp_path / "devices.db.unusable"
        assert store.report.set_aside.exists()
        assert store.report.reason
        assert await store.counts() == (0, 0)
        await store.write(_changes("a").drain())
        assert await store.counts() == (1, 1)


async def test_a_file_of_another_schema_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "devices.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE device (other TEXT)")
        database.execute("PRAGMA user_version = 99")
    async with await DeviceStore.open(path) as store:
        assert store.report.reason is not None
        assert "99" in store.report.reason


async def test_a_file_that_becomes_corrupt_while_open_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "devices.db"
    async with await DeviceStore.open(path) as store:
        await store.write(_changes(*(f"device-{i}" for i in range(2_000))).drain())
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _overwrite(path, 4096, b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises(StoreFailed, match=r"devices\.db"):
            await store.write(_changes(*(f"late-{i}" for i in range(2_000))).drain())
        assert store.report.set_aside is not None
        await store.write(_changes("after").drain())
        assert await store.counts() == (1, 1)


async def test_a_locked_file_fails_the_write_and_is_not_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "devices.db"
    async with await DeviceStore.open(path, limits=DeviceLimits(busy_timeout_ms=10)) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked"):
            await store.write(_changes("a").drain())
        other.execute("ROLLBACK")
        other.close()
        assert store.report.set_aside is None
        await store.write(_changes("a").drain())
        assert await store.counts() == (1, 1)


async def test_a_directory_that_is_not_there_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="opening"):
        await DeviceStore.open(tmp_path / "missing" / "devices.db")


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = await DeviceStore.open(tmp_path / "devices.db")
    await store.close()
    await store.close()
    with pytest.raises(StoreClosed):
        await store.counts()


async def test_the_longest_absent_devices_go_when_the_table_is_full(tmp_path: Path) -> None:
    limits = DeviceLimits(devices_max=10)
    async with await DeviceStore.open(tmp_path / "devices.db", limits=limits) as store:
        for index in range(30):
            table = _changes(f"d{index:02}", now_ms=index)
            table.client_disconnected(f"d{index:02}", now_ms=index)
            await store.write(table.drain())
        names = [device.client_id for device in await store.devices()]
        assert len(names) <= 11
        assert names[-1] == "d29"
        assert "d00" not in names


async def test_pages_of_devices_follow_one_another(tmp_path: Path) -> None:
    async with await DeviceStore.open(tmp_path / "devices.db") as store:
        await store.write(_changes("a", "b", "c").drain())
        first = await store.devices(count_max=2)
        rest = await store.devices(after=first[-1].client_id)
        assert [device.client_id for device in first + rest] == ["a", "b", "c"]


def _overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)
