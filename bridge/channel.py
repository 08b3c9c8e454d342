"""One partition's way upstream: the core, with the log on one side and a lane on the other.

A shell without sockets: it carries out what the core wants of the log (reads, durable attempts, the
cursor), and keeps who leads the partition. Reads of sealed batches are made in the reading thread;
the tail is read in the loop, where it also grows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from random import Random
from typing import Final

from bridge.cluster import Lane
from bridge.config import UpstreamConfig
from bridge.errors import LogHole
from bridge.framing import Framer
from bridge.position import Attempt, Outgoing, ReadPlan
from bridge.replicator import Replicator
from bridge.state import attempt_key, decode_attempt, encode_attempt, known_attempt
from bridge.status import PartitionStatus
from bridge.wire import TopicKey
from log import Committer, CorruptBatch, Log, LogError, OffsetOutOfRange, Partition, StoredBatch

logger = logging.getLogger(__name__)

_INLINE_BYTES: Final = 32 * 1024
"""Live batches up to this are framed in the loop: the hop to a thread costs as much."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Channel:
    """Everything is called in the loop's thread. `changed`: there may be more to do."""

    def __init__(
        self,
        partition: Partition,
        *,
        log: Log,
        committer: Committer,
        config: UpstreamConfig,
        rng: Random,
        executor: Executor,
        changed: Callable[[], None],
    ) -> None:
        self.partition = partition
        self.topic = config.topic_for(partition.stream)
        self.topic_key: TopicKey | None = None
        self.lane: Lane | None = None
        self.leader_epoch = -1
        self.obstacle: str | None = None
        """Why there is no leader to send to; None while there is one."""
        self._log = log
        self._committer = committer
        self._name = config.name
        self._executor = executor
        self._changed = changed
        self._attempt_key = attempt_key(config.name, partition.stream, partition.index)
        self._attempt_task: asyncio.Task[None] | None = None
        self._saved_cursor = log.cursor(config.name, partition)
        self._framer = Framer(
            limits=config.limits, log_limits=log.limits, live_level=config.compression_level
        )
        self.core = Replicator(
            label=f"{partition.stream}-{partition.index}",
            start_offset=partition.start_offset,
            durable_end=partition.durable_end,
            cursor=self._saved_cursor,
            attempt=known_attempt(
                decode_attempt(log.get_state(self._attempt_key)),
                log.get_state(partition.state_lost_key),
            ),
            limits=config.limits,
            linger_ms=config.linger_ms,
            rng=rng,
        )

    def turn(self, now_ms: int, *, bytes_free: int) -> None:
        """Lets the core see the log, and begins what it wants of it."""
        core = self.core
        self._look_at_log()
        if self.lane is None or not self.lane.is_open:
            return
        if (plan := core.wants_read(now_ms, bytes_free=bytes_free)) is not None:
            self._read(plan, now_ms)
        if self._attempt_task is None:
            attempt = core.wants_attempt(wall_ms=wall_ms())
            if attempt is not None:
                self._attempt_task = asyncio.create_task(self._keep_attempt(attempt))

    def _look_at_log(self) -> None:
        self.core.log_moved(
            start_offset=self.partition.start_offset,
            sealed_end=self.partition.sealed_end,
            durable_end=self.partition.durable_end,
        )

    def led_by(self, lane: Lane | None, epoch: int, key: TopicKey | None) -> None:
        """Metadata says who leads the partition now; None: nobody."""
        if (lane, epoch, key) == (self.lane, self.leader_epoch, self.topic_key):
            return
        is_new_topic = None not in (key, self.topic_key) and key != self.topic_key
        if is_new_topic:
            logger.warning("bridge.topic-recreated topic=%s", self.topic)
        self.lane, self.leader_epoch = lane, epoch
        self.topic_key = key or self.topic_key
        self.core.moved(is_new_topic=is_new_topic)

    def has_question(self, now_ms: int) -> bool:
        """Control has something to ask the upstream for this channel, and can."""
        if self.core.wants_identity(now_ms):
            return True
        lane = self.lane
        is_ready = lane is not None and lane.is_open and not lane.is_asking
        return is_ready and self.core.wants_standing(now_ms)

    @property
    def has_new_cursor(self) -> bool:
        """Without a saved one, the core's is the log's start until something is replicated."""
        if self._saved_cursor is None and not self.core.known.is_confirmed:
            return False
        return self.core.cursor != self._saved_cursor

    def save_cursor(self) -> bool:
        """Puts the cursor into the current round; True if it had moved. LogFailed."""
        if not self.has_new_cursor:
            return False
        self._log.set_cursor(self._name, self.partition, self.core.cursor)
        self._saved_cursor = self.core.cursor
        return True

    # -- reading

    def _read(self, plan: ReadPlan, now_ms: int) -> None:
        if not plan.is_live:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._executor, self._read_and_frame, plan)
            future.add_done_callback(lambda done: self._framed(plan, done))
            return
        try:
            stored = self.partition.read(plan.offset, bytes_max=plan.bytes_max)
            if sum(len(batch.data) for batch in stored) <= _INLINE_BYTES:
                self.core.loaded(plan, self._frame(plan, stored))
                return
        except (LogError, LogHole, OSError) as error:
            self._failed(plan, error, now_ms)
            return
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, self._frame, plan, stored)
        future.add_done_callback(lambda done: self._framed(plan, done))

    def _read_and_frame(self, plan: ReadPlan) -> list[Outgoing]:
        return self._frame(plan, self.partition.read(plan.offset, bytes_max=plan.bytes_max))

    def _frame(self, plan: ReadPlan, stored: list[StoredBatch]) -> list[Outgoing]:
        return self._framer.frame(plan, stored, wall_ms=wall_ms())

    def _framed(self, plan: ReadPlan, done: asyncio.Future[list[Outgoing]]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self.core.loaded(plan, done.result())
        else:
            if not isinstance(error, LogError | LogHole | OSError):
                # Our bug: loud, but the partition must not wait for a plan that never comes back.
                logger.error("bridge.bug partition=%s", self.core.label, exc_info=error)
            self._failed(plan, error, now_ms=time.monotonic_ns() // 1_000_000)
        self._changed()

    def _failed(self, plan: ReadPlan, error: BaseException, now_ms: int) -> None:
        hole_end = None
        if isinstance(error, LogHole):
            hole_end = error.end
        elif isinstance(error, OffsetOutOfRange) and plan.offset < error.start:
            hole_end = error.start
        what = "damaged on this disk" if isinstance(error, CorruptBatch) else "cannot be read"
        reason = f"the log at offset {plan.offset} {what}: {error}"
        logger.error("bridge.read-failed partition=%s error=%s", self.core.label, reason)
        self.core.load_failed(plan, reason, now_ms, hole_end=hole_end)

    async def _keep_attempt(self, attempt: Attempt) -> None:
        try:
            self._log.put_state(self._attempt_key, encode_attempt(attempt))
            await self._committer.flush()
        except LogError as error:
            # The journal failed: the gateway stops. This task stays set, so nothing more is sent.
            self.core.error = str(error)
            return
        self._attempt_task = None
        self.core.attempt_durable(attempt)
        self._changed()

    def cancel(self) -> None:
        if self._attempt_task is not None:
            self._attempt_task.cancel()

    # -- showing

    def status(self, now_ms: int) -> PartitionStatus:
        core, lane = self.core, self.lane
        self._look_at_log()
        is_connected = lane is not None and lane.is_open
        state, error = core.state.value, core.error
        if not is_connected and core.lag_count:
            state = "no connection to the leader"
        if not is_connected:
            error = self.obstacle or (lane.error if lane else None) or error
        return PartitionStatus(
            stream=self.partition.stream,
            index=self.partition.index,
            topic=self.topic,
            state=state,
            leader=lane.broker_id if lane is not None and is_connected else None,
            cursor=core.cursor,
            lag_count=core.lag_count,
            in_flight_count=len(core.pipeline.in_flight),
            last_ack_age_ms=None if core.last_ok_ms is None else now_ms - core.last_ok_ms,
            error=error,
            sent_count=core.counts.sent,
            resent_count=core.counts.resent,
            dropped_count=core.counts.dropped,
            upstream_lost_count=core.counts.upstream_lost,
            renewed_count=core.counts.renewed,
        )
