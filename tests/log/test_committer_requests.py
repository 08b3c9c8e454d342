"""What a participant asks of the committer while the journal is busy, or has no room."""

import asyncio
import threading
from pathlib import Path

from log import Committer, DiskFiles, Log, LogLimits, RecordTemplate, StreamSpec

TEMPLATE = RecordTemplate(b"key")


class SlowFiles(DiskFiles):
    """fdatasync returns when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def datasync(self, handle: int) -> None:
        assert self.go.wait(10)


class Owes:
    """A participant that owes something once, with or without records."""

    def __init__(self) -> None:
        self.owed: object | None = None
        self.paid: list[object] = []

    def cut(self) -> object | None:
        token, self.owed = self.owed, None
        return token

    def durable(self, token: object) -> None:
        self.paid.append(token)

    def failed(self, error: BaseException) -> None:
        raise AssertionError from error


def _open(directory: Path, files: DiskFiles, **limits: int) -> Log:
    streams = [StreamSpec(name="s", partition_count=1)]
    return Log.open(directory, streams, files=files, limits=LogLimits(**limits))


async def _until(condition: object) -> None:
    for _ in range(500):
        if condition():  # type: ignore[operator]
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in time")


async def test_a_round_without_records_that_is_asked_for_during_a_write_is_not_forgotten(
    tmp_path: Path,
) -> None:
    files = SlowFiles()
    log = _open(tmp_path, files)
    committer = Committer(log, asyncio.get_running_loop())
    owes = Owes()
    committer.add_participant(owes)
    files.go.clear()
    log.append(log.partition("s", 0), TEMPLATE, [b"value"])
    committer.request()
    await asyncio.sleep(0.05)
    owes.owed = "an answer about what is stored already"
    committer.request()
    await asyncio.sleep(0.05)
    assert owes.paid == []
    files.go.set()
    await _until(lambda: owes.paid)
    await committer.close()
    log.close()


async def test_a_preparer_can_append_to_the_round_that_is_closed(tmp_path: Path) -> None:
    log = _open(tmp_path, SlowFiles())
    committer = Committer(log, asyncio.get_running_loop())
    partition = log.partition("s", 0)
    gathered = [b"one", b"two"]

    def prepare() -> None:
        if gathered:
            log.append(partition, TEMPLATE, gathered)
            gathered.clear()

    committer.add_preparer(prepare)
    committer.request()
    await committer.flush()
    assert [record.value for record in partition.records(0, count_max=9)] == [b"one", b"two"]
    await committer.close()
    log.close()


async def test_nobody_is_relieved_while_a_round_still_has_no_room(tmp_path: Path) -> None:
    """Publishers read in between would make it grow until it can never have room."""
    log = _open(tmp_path, SlowFiles(), journal_bytes=1 << 20, journal_reserve_bytes=1 << 16)
    committer = Committer(log, asyncio.get_running_loop())
    partition = log.partition("s", 0)
    for _ in range(50):
        log.append(partition, TEMPLATE, [bytes(100_000)])
        committer.request()
        await asyncio.sleep(0.01)
        if committer.congested:
            break
    relieved: list[bool] = []
    committer.on_relief(lambda: relieved.append(True))
    committer.room_made()  # it was not
    await asyncio.sleep(0.05)
    assert committer.congested
    assert relieved == []
    await committer.close()
    log.close()
