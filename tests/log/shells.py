"""A log with its shells in a running loop, on real files that can be told to make trouble."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from log import Committer, DiskFiles, Housekeeper, Log, LogFailed, LogLimits
from log.partition import Partition
from tests.log.helpers import TEMPLATE, spec, values

LIMITS = LogLimits(
    journal_bytes=1 << 20,
    journal_reserve_bytes=128 * 1024,
    frame_bytes_max=64 * 1024,
    pending_bytes_max=256 * 1024,
    tail_bytes_max=512 * 1024,
    chunk_bytes_max=32 * 1024,
    seal_bytes=64 * 1024,
    segment_bytes_max=256 * 1024,
)


class TroubledFiles(DiskFiles):
    """The disk, with a hand on its journal and its room."""

    def __init__(self) -> None:
        self.syncs: list[str] = []
        self.go = threading.Event()
        """The journal's sync waits for it."""
        self.go.set()
        self.fail_journal: BaseException | None = None
        self.full = False
        self._names: dict[int, str] = {}

    def open(self, path: Path, *, create: bool = False) -> int:
        handle = super().open(path, create=create)
        self._names[handle] = path.name
        return handle

    def write_at(self, handle: int, position: int, pieces: Sequence[bytes]) -> int:
        if self.full and self._names[handle].endswith(".log"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write_at(handle, position, pieces)

    def datasync(self, handle: int) -> None:
        name = self._names[handle]
        if name == "journal":
            self.go.wait(10)
            if self.fail_journal:
                raise self.fail_journal
        super().datasync(handle)
        self.syncs.append(name)


class Rig:
    """A log with its shells."""

    def __init__(self, directory: Path, limits: LogLimits = LIMITS, *, count: int = 1) -> None:
        self.files = TroubledFiles()
        self.log = Log.open(directory, [spec(count=count)], limits=limits, files=self.files)
        loop = asyncio.get_running_loop()
        self.committer = Committer(self.log, loop)
        self.housekeeper = Housekeeper(self.log, self.committer, loop)
        self.partition = self.log.partition("mqtt", 0)

    def append(self, *new: bytes, partition: Partition | None = None) -> None:
        self.log.append(partition or self.partition, TEMPLATE, new)
        self.committer.request()

    async def stop(self) -> None:
        self.files.go.set()
        await asyncio.wait_for(self.housekeeper.stop(), 10)
        await asyncio.wait_for(self.committer.close(), 10)
        self.log.close()


class Publisher:
    """A participant that is owed acknowledgements."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.owed: list[int] = []
        self.acknowledged: list[int] = []
        self.early: list[int] = []
        """Acknowledged before they could be read."""
        self.failure: LogFailed | None = None
        rig.committer.add_participant(self)

    def publish(self, number: int) -> None:
        self.rig.append(b"%d" % number)
        self.owed.append(number)

    def cut(self) -> object | None:
        taken, self.owed = self.owed, []
        return taken or None

    def durable(self, token: object) -> None:
        assert isinstance(token, list)
        self.acknowledged += token
        found = [value for value in values(self.rig.partition) if value and value[0] != 0]
        for number in self.acknowledged:
            if found[number : number + 1] != [b"%d" % number]:
                self.early.append(number)

    def failed(self, error: LogFailed) -> None:
        self.failure = error


async def eventually(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)
