"""Sealing, checkpoints and retention: the shell that does the log's slower work beside ingest.

Owns one worker thread and one task. It wakes when frames became durable and there is something to
do, and every second. Steps run one after the other, so that no checkpoint is taken while a seal
job is under way.

A disk that has no room, or fails a write to a segment, is a state and not an end: what failed is
tried again each second, and until all of it has succeeded the log takes records only as far as
journal and memory reach (Log.append raises LogFull).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor

from log.committer import Committer
from log.partition import Partition
from log.store import Log

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
RETENTION_S = 10.0
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
        self._stop = asyncio.Event()
        self._failing: dict[object, OSError] = {}
        """What could not be written, by step: a partition, or the name of another."""
        self._checkpoint_ms = loop.time() * 1000
        self._retain_s = loop.time() + RETENTION_S
        self._index_s = loop.time() + PERIOD_S
        self._checkpointed_sequence = log.journal.synced_sequence
        log.add_listener(self._look)
        committer.wants_room = self._wake.set

    def start(self) -> None:
        self._task = self._loop.create_task(self._run(), name="housekeeper")

    async def stop(self) -> None:
        """Finishes the step under way and ends."""
        self._stop.set()
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
        journal = self._log.journal
        return self._committer.starved or journal.used_bytes * 2 >= journal.capacity_bytes

    async def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), PERIOD_S)
            self._wake.clear()
            if self._log.failure:
                return
            if not await self._round():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), PERIOD_S)
            self._committer.room_made()

    async def _round(self) -> bool:
        """All that is due, each step on its own: one partition's bad sector must not keep the
        others from being sealed. False if something failed.
        """
        good = True
        for partition, close_open in self._due():
            good &= await self._try(partition, self._seal(partition, close_open=close_open))
        if self._checkpoint_due():
            good &= await self._try("checkpoint", self._checkpoint())
        if self._loop.time() >= self._retain_s or self._log.stalled:
            self._retain_s = self._loop.time() + RETENTION_S
            good &= await self._try("retention", self._retain())
        if not self._failing and self._loop.time() >= self._index_s:
            self._index_s = self._loop.time() + PERIOD_S
            await self._index_topics()
        return good

    async def _index_topics(self) -> None:
        """A step for one partition whose topic index is not whole. Where it cannot be written,
        segments are read without it.
        """
        with contextlib.suppress(OSError):
            for partition in self._log.partitions.values():
                if await self._loop.run_in_executor(self._worker, partition.index_topics):
                    break

    async def _try(self, name: object, step: Coroutine[None, None, None]) -> bool:
        try:
            await step
        except OSError as error:
            self._failed(name, error)
            return False
        except Exception:
            logger.exception("housekeeping.failed")
            return False
        self._succeeded(name)
        return True

    def _failed(self, name: object, error: OSError) -> None:
        if name not in self._failing:
            if _no_room(error):
                logger.error("disk.full error=%r", str(error))
            else:
                logger.error("disk.failing error=%r", str(error))
        self._failing[name] = error
        self._update_stalled()

    def _succeeded(self, name: object) -> None:
        if self._failing.pop(name, None) is not None and not self._failing:
            logger.warning("disk.good_again")
        self._update_stalled()

    def _update_stalled(self) -> None:
        """Retention that fails only leaves files: nothing waits for it."""
        errors = [error for name, error in self._failing.items() if name != "retention"]
        if not errors:
            self._log.stalled = ""
        elif any(map(_no_room, errors)):
            self._log.stalled = (
                "the disk is full: make room, shorten a stream's retention, or restore the uplink"
            )
        else:
            self._log.stalled = f"the disk fails ({errors[0]}): see the system's log, replace it"

    def _due(self) -> list[tuple[Partition, bool]]:
        """Partitions to seal, and whether with their open chunk."""
        log = self._log
        now_ms = log.now_ms()
        tight = self._journal_tight()
        # A round that waits may need the whole journal: then all that is in it makes room.
        starved = self._committer.starved
        middle = log.journal.next_sequence if starved else log.journal.middle_sequence()
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
            if old or heavy or partition.seal_full() or partition in self._failing:
                due.append((partition, old or heavy))
        return due

    async def _seal(self, partition: Partition, *, close_open: bool) -> None:
        job = partition.seal_job(close_open=close_open)
        if job is None:
            return
        sealed = await self._loop.run_in_executor(self._worker, partition.write_sealed, job)
        self._log.sealed(partition, sealed)
        self._committer.room_made()

    def _checkpoint_due(self) -> bool:
        """When it would free journal space that is short, or the last one is old."""
        log = self._log
        if "checkpoint" in self._failing:
            return True
        frees = log.needed_sequence > log.journal.first_sequence
        if frees and self._journal_tight():
            return True
        old = self._loop.time() * 1000 - self._checkpoint_ms >= log.limits.checkpoint_age_ms
        return old and (frees or log.journal.synced_sequence != self._checkpointed_sequence)

    async def _checkpoint(self) -> None:
        log = self._log
        checkpoint = log.checkpoint()
        written = await self._loop.run_in_executor(self._worker, log.write_checkpoint, checkpoint)
        log.checkpointed(written)
        self._checkpointed_sequence = checkpoint.state_sequence - 1
        self._checkpoint_ms = self._loop.time() * 1000

    async def _retain(self) -> None:
        if self._log.expire():
            removed = await self._loop.run_in_executor(self._worker, self._log.delete_expired)
            logger.info("retention.removed segments=%d", removed)


def _no_room(error: OSError) -> bool:
    return error.errno in _NO_ROOM
