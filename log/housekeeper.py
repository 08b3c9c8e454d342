"""Sealing, checkpoints and retention: the shell that does the log's slower work beside ingest.

Owns one worker thread and one task. It wakes when frames became durable and there is something to
do, and every second. Steps run one after the other, so that no checkpoint is taken while a seal
job is under way.

A disk without room is a state, not an end: sealing is tried again each second, and until it
succeeds the log takes records only as far as journal and memory reach (Log.append raises LogFull).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from log.committer import Committer
from log.partition import Partition
from log.store import Log

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
RETENTION_PERIODS = 10
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Housekeeper:
    """One per log. `start` in the loop; `stop` before the log is closed."""

    def __init__(self, log: Log, committer: Committer, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._committer = committer
        self._loop = loop
        self._wake = asyncio.Event()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="housekeeper")
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._checkpoint_ms = 0.0
        self._checkpointed_sequence = log.journal.synced_sequence
        log.add_listener(self._look)
        committer.wants_room = self._wake.set

    def start(self) -> None:
        self._task = self._loop.create_task(self._run(), name="housekeeper")

    async def stop(self) -> None:
        """Finishes the step under way and ends."""
        self._stopping = True
        self._wake.set()
        if self._task:
            await self._task
        self._worker.shutdown()

    def _look(self) -> None:
        """After each durable frame: only what can be told by a comparison or two."""
        log = self._log
        if log.tail_bytes * 4 >= log.limits.tail_bytes_max or self._journal_tight():
            self._wake.set()

    def _journal_tight(self) -> bool:
        return self._log.journal.used_bytes * 2 >= self._log.journal.capacity_bytes

    async def _run(self) -> None:
        periods = 0
        while not self._stopping:
            try:
                await asyncio.wait_for(self._wake.wait(), PERIOD_S)
            except TimeoutError:
                periods += 1
            self._wake.clear()
            if self._log.failure:
                return
            try:
                await self._seal(self._due())
                if self._checkpoint_due():
                    await self._checkpoint()
                if periods >= RETENTION_PERIODS or self._log.disk_full:
                    periods = 0
                    self._retain()
            except OSError as error:
                self._trouble(error)
                await asyncio.sleep(PERIOD_S)
            self._committer.room_made()

    def _due(self) -> list[tuple[Partition, bool]]:
        """Partitions to seal, and whether with their open chunk."""
        log = self._log
        now_ms = log.now_ms()
        tight = self._journal_tight()
        middle = log.journal.middle_sequence() if tight else 0
        full = log.tail_bytes * 2 >= log.limits.tail_bytes_max
        due = []
        for partition in log.partitions.values():
            tail = partition.tail
            if not tail.chunks:
                continue
            old = partition.seal_overdue(now_ms) or (
                tight and (tail.first_sequence or middle) < middle
            )
            heavy = full and tail.bytes * 2 * len(log.partitions) >= log.tail_bytes
            if old or heavy or partition.seal_full():
                due.append((partition, old or heavy))
        return due

    async def _seal(self, due: Iterable[tuple[Partition, bool]]) -> None:
        for partition, close_open in due:
            job = partition.seal_job(close_open=close_open)
            if job is None:
                continue
            sealed = await self._loop.run_in_executor(self._worker, partition.write_sealed, job)
            self._log.sealed(partition, sealed)
            if self._log.disk_full:
                self._log.disk_full = False
                logger.warning("disk.room_again")
            self._committer.room_made()

    def _checkpoint_due(self) -> bool:
        log = self._log
        if log.journal.synced_sequence == self._checkpointed_sequence:
            return False
        old = self._loop.time() * 1000 - self._checkpoint_ms >= log.limits.checkpoint_age_ms
        return old or self._journal_tight()

    async def _checkpoint(self) -> None:
        log = self._log
        checkpoint = log.checkpoint()
        written = await self._loop.run_in_executor(self._worker, log.write_checkpoint, checkpoint)
        log.checkpointed(written)
        self._checkpointed_sequence = checkpoint.state_sequence - 1
        self._checkpoint_ms = self._loop.time() * 1000

    def _retain(self) -> None:
        removed = self._log.remove_expired()
        if removed:
            logger.info("retention.removed segments=%d", removed)

    def _trouble(self, error: OSError) -> None:
        if error.errno in _NO_ROOM:
            if not self._log.disk_full:
                logger.error("disk.full error=%r", str(error))
            self._log.disk_full = True
        else:
            logger.error("housekeeping.failed error=%r", str(error))
