"""The bridge to one upstream: every partition of the log, replicated; the composition of the parts.

A shell. Owns the turn: it lets each channel read, fills Produce requests with the batches of all
partitions that one broker leads, hands the answers to the cores, and keeps the cursors durable. It
raises nothing to the gateway: an upstream that is away, or not there yet, is a state (`status`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random, SystemRandom

from bridge import codes, wire
from bridge.channel import Channel
from bridge.cluster import Cluster, Lane
from bridge.codes import Meaning
from bridge.config import UpstreamConfig
from bridge.control import Control
from bridge.errors import ProtocolMismatch, Unreachable
from bridge.position import Outgoing
from bridge.status import BridgeStatus
from log import Committer, Log, LogError, Partition

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A Produce on its way: whose batches, in the order of the request, and as what their topics
    were named in it: a topic may be made again while the answer is on its way.
    """

    channels: Sequence[tuple[Channel, wire.TopicKey]]
    version: int


def shipped_partitions(log: Log, config: UpstreamConfig) -> list[Partition]:
    """Those of the configured streams that this upstream takes; and, where it takes all, those of
    streams that are configured no more: what they hold is shipped while it is on the disk.
    """
    wanted = [
        partition
        for stream in log.streams.values()
        if config.streams is None or stream.name in config.streams
        for partition in stream.partitions
        if (only := partition.spec.replicated_by) is None or config.name in only
    ]
    if config.streams is not None:
        return wanted
    owners = {config.topic_for(stream): stream for stream in log.streams}
    for partition in log.partitions.values():
        if partition.stream in log.streams:
            continue
        topic = config.topic_for(partition.stream)
        if owners.setdefault(topic, partition.stream) != partition.stream:
            # Two streams in one topic would be one producer with two sequences in its partitions.
            logger.warning(
                "bridge.removed-stream-kept stream=%s topic=%s reason=another stream's topic",
                *(partition.stream, topic),
            )
        else:
            wanted.append(partition)
    return wanted


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Bridge:
    """`start` and `stop` once each, in the loop's thread. The log must outlive it."""

    def __init__(
        self, log: Log, committer: Committer, config: UpstreamConfig, *, rng: Random | None = None
    ) -> None:
        self._log = log
        self._committer = committer
        self._config = config
        self._limits = config.limits
        self._rng = rng or SystemRandom()
        self._clock_ms = monotonic_ms
        self._channels: list[Channel] = []
        self._cluster: Cluster | None = None
        self._control: Control | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="bridge-read")
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ms = 0
        self._is_turning = False
        self._cursor_timer: asyncio.TimerHandle | None = None
        self._first_lane = 0
        self._first_reader = 0
        self._is_stopping = False
        self._is_stopped = False
        self._request_count = 0
        self._sent_bytes = 0

    async def start(self) -> None:
        """Begins to replicate. Returns at once, whether the upstream is there or not."""
        self._loop = asyncio.get_running_loop()
        self._channels = [
            Channel(
                partition,
                log=self._log,
                committer=self._committer,
                config=self._config,
                rng=self._rng,
                executor=self._executor,
                changed=self._schedule,
            )
            for partition in shipped_partitions(self._log, self._config)
        ]
        self._cluster = Cluster(
            self._config,
            clock_ms=self._clock_ms,
            rng=self._rng,
            lane_opened=self._lane_opened,
            lane_lost=self._lane_lost,
        )
        self._control = Control(
            self._channels,
            cluster=self._cluster,
            log=self._log,
            committer=self._committer,
            config=self._config,
            clock_ms=self._clock_ms,
            rng=self._rng,
            changed=self._schedule,
        )
        self._log.add_listener(self._log_moved)
        self._tasks = [
            asyncio.create_task(self._control.run(), name=f"bridge-{self._config.name}"),
            asyncio.create_task(self._cluster.watch(), name=f"bridge-watch-{self._config.name}"),
        ]

    async def stop(self) -> None:
        """Waits a bounded time for the answers in flight, and leaves the cursors durable."""
        self._is_stopping = True
        if self._cluster is None or self._control is None:
            return
        deadline_ms = self._clock_ms() + self._limits.stop_ms
        while any(lane.outstanding for lane in self._cluster.lanes()):
            if self._clock_ms() >= deadline_ms:
                break
            await asyncio.sleep(0.01)
        self._is_stopped = True
        self._log.remove_listener(self._log_moved)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._control.close()
        await self._cluster.close()
        for channel in self._channels:
            channel.cancel()
        for timer in (self._timer, self._cursor_timer):
            if timer is not None:
                timer.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)
        try:
            for channel in self._channels:
                channel.save_cursor()
            await self._committer.flush()
        except LogError as error:
            logger.error("bridge.cursors-not-saved upstream=%s error=%s", self._config.name, error)
        logger.info("bridge.stopped upstream=%s", self._config.name)

    def status(self) -> BridgeStatus:
        """How it stands, as of now."""
        now_ms = self._clock_ms()
        cluster, control = self._cluster, self._control
        answer_ms = cluster.last_answer_ms if cluster else None
        age_ms = None if answer_ms is None else now_ms - answer_ms
        patience_ms = self._limits.probe_ms + self._config.request_timeout_ms
        lanes = list(cluster.lanes()) if cluster else []
        open_count = sum(lane.is_open for lane in lanes)
        partitions = tuple(channel.status(now_ms) for channel in self._channels)
        error = control.error if control else None
        if error is None:
            error = next((each.error for each in partitions if each.error), None)
        return BridgeStatus(
            name=self._config.name,
            connected=open_count > 0 and age_ms is not None and age_ms <= patience_ms,
            last_answer_age_ms=age_ms,
            is_exactly_once=control is None or not control.is_plain,
            cluster_id=control.cluster_id if control else None,
            broker_count=open_count,
            lag_count=sum(each.lag_count for each in partitions),
            held_bytes=sum(channel.core.pipeline.held_bytes for channel in self._channels),
            request_count=self._request_count,
            sent_bytes=self._sent_bytes,
            error=error,
            partitions=partitions,
        )

    # -- the turn

    def _log_moved(self) -> None:
        """A frame became durable. Called very often: the linger is what it waits for."""
        if not self._is_stopping:
            self._arm(self._config.linger_ms)

    def _arm(self, wait_ms: int) -> None:
        at_ms = self._clock_ms() + wait_ms
        if self._timer is not None:
            if self._timer_at_ms <= at_ms:
                return
            self._timer.cancel()
        self._timer_at_ms = at_ms
        self._timer = self._loop.call_later(wait_ms / 1000, self._timer_due)

    def _timer_due(self) -> None:
        self._timer = None
        self._schedule()

    def _schedule(self) -> None:
        """A turn soon; one for however many ask."""
        if not self._is_turning and not self._is_stopping:
            self._is_turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_turning = False
        if self._is_stopping or self._cluster is None or self._control is None:
            return
        now_ms = self._clock_ms()
        wait_ms: int | None = None
        self._read(now_ms)
        for lane in self._cluster.lanes():
            self._fill(lane, now_ms)
            if lane.quiet_until_ms > now_ms:
                quiet_ms = lane.quiet_until_ms - now_ms
                wait_ms = quiet_ms if wait_ms is None else min(wait_ms, quiet_ms)
        for channel in self._channels:
            core = channel.core
            if channel.has_question(now_ms):
                self._control.poke()
            if channel.has_new_cursor:
                self._save_cursors_soon()
            due_ms = core.due_in_ms(now_ms)
            if due_ms is not None and (wait_ms is None or due_ms < wait_ms):
                wait_ms = due_ms
        if wait_ms is not None:
            self._arm(wait_ms)

    def _read(self, now_ms: int) -> None:
        """Lets the channels read while there is memory, beginning with another one each time."""
        limits, count = self._limits, len(self._channels)
        held = sum(channel.core.pipeline.held_bytes for channel in self._channels)
        self._first_reader += 1
        for number in range(count):
            channel = self._channels[(self._first_reader + number) % count]
            free = limits.memory_bytes_max - held
            may_read = free >= limits.read_bytes or not held
            before = channel.core.pipeline.held_bytes
            channel.turn(now_ms, bytes_free=max(free, limits.read_bytes) if may_read else 0)
            held += channel.core.pipeline.held_bytes - before

    def _fill(self, lane: Lane, now_ms: int) -> None:
        """Sends what may be sent on this lane: one batch of each partition in a request."""
        while (
            lane.connection is not None
            and lane.quiet_until_ms <= now_ms
            and len(lane.outstanding) < self._limits.in_flight_max
            and (picked := self._pick(lane, now_ms))
        ):
            self._send(lane, picked)

    def _pick(self, lane: Lane, now_ms: int) -> list[tuple[Channel, Outgoing]]:
        """Batches for one request, beginning with another partition each time when not all fit."""
        picked: list[tuple[Channel, Outgoing]] = []
        size = 0
        count = len(self._channels)
        for number in range(count):
            channel = self._channels[(self._first_lane + number) % count]
            if channel.lane is not lane:
                continue
            batch = channel.core.next_batch(now_ms)
            if batch is None:
                continue
            if picked and size + batch.size_bytes > self._limits.request_bytes_max:
                self._first_lane = (self._first_lane + number) % count
                break
            size += batch.size_bytes
            picked.append((channel, channel.core.sent()))
        return picked

    def _send(self, lane: Lane, picked: Sequence[tuple[Channel, Outgoing]]) -> None:
        connection = lane.connection
        assert connection is not None, "a closed lane is not filled"
        topics: dict[wire.TopicKey, list[tuple[int, Sequence[bytes]]]] = {}
        channels: list[tuple[Channel, wire.TopicKey]] = []
        for channel, batch in picked:
            key = channel.topic_key
            assert key is not None, "a channel with a lane has a topic"
            channels.append((channel, key))
            topics.setdefault(key, []).append((channel.partition.index, batch.pieces))
            self._sent_bytes += batch.size_bytes
        correlation_id = connection.next_correlation_id()
        # The broker's patience ends before ours, so that it says what was missing.
        pieces = wire.produce_request(
            topics,
            version=lane.produce_version,
            correlation_id=correlation_id,
            client_id=connection.client_id,
            timeout_ms=self._config.request_timeout_ms * 4 // 5,
        )
        request = _Request(channels=channels, version=lane.produce_version)
        lane.outstanding.append(request)
        self._request_count += 1
        try:
            connection.produce(
                pieces, correlation_id, lambda future: self._answered(lane, request, future)
            )
        except Unreachable:
            self._lane_lost(lane)

    # -- answers

    def _answered(self, lane: Lane, request: _Request, future: asyncio.Future[bytes]) -> None:
        if future.cancelled() or future.exception() is not None:
            return  # the connection is gone: `_lane_lost` has told the cores
        if not lane.outstanding or lane.outstanding[0] is not request:
            return
        lane.outstanding.popleft()
        now_ms = self._clock_ms()
        try:
            self._take_answers(lane, request, future.result(), now_ms)
        except Exception as error:
            if isinstance(error, ProtocolMismatch):
                logger.error("bridge.protocol broker=%d error=%s", lane.broker_id, error)
            else:
                # Our bug: loud; but what is in flight must not wait for ever for its answer.
                logger.error("bridge.bug broker=%d", lane.broker_id, exc_info=error)
            lane.outstanding.appendleft(request)
            if lane.connection is not None:
                lane.connection.give_up()
            return
        self._schedule()

    def _take_answers(self, lane: Lane, request: _Request, body: bytes, now_ms: int) -> None:
        response = wire.parse_produce_answer(body, version=request.version)
        if response.throttle_ms > 0:
            wait_ms = min(response.throttle_ms, self._limits.throttle_ms_max)
            lane.quiet_until_ms = now_ms + wait_ms
        by_partition = {(each.topic, each.partition): each for each in response.answers}
        found: list[tuple[Channel, wire.ProduceAnswer]] = []
        for channel, key in request.channels:
            answer = by_partition.get((key.on_wire(request.version), channel.partition.index))
            if answer is None:
                raise ProtocolMismatch(f"no answer for {channel.core.label} in a Produce answer")
            found.append((channel, answer))
        for channel, answer in found:
            channel.core.produced(answer.code, answer.message, now_ms)
            if answer.code and codes.meaning(answer.code) is Meaning.MOVED and self._control:
                self._control.leaders_moved()

    def _lane_opened(self, lane: Lane) -> None:
        if self._control is not None:
            self._control.poke()
        self._schedule()

    def _lane_lost(self, lane: Lane) -> None:
        for request in lane.outstanding:
            for channel, _ in request.channels:
                channel.core.lost()
        lane.outstanding.clear()
        for channel in self._channels:
            if channel.lane is lane:
                # What it has in flight may be on the lane that led it before: that is not lost.
                channel.core.moved()
        if not self._is_stopping and self._control is not None:
            self._control.leaders_moved()

    # -- cursors

    def _save_cursors_soon(self) -> None:
        if self._cursor_timer is None and not self._is_stopped:
            delay_s = self._limits.cursor_commit_ms / 1000
            self._cursor_timer = self._loop.call_later(delay_s, self._save_cursors)

    def _save_cursors(self) -> None:
        self._cursor_timer = None
        try:
            moved = [channel.save_cursor() for channel in self._channels]
        except LogError as error:
            logger.error("bridge.cursors-not-saved upstream=%s error=%s", self._config.name, error)
            return
        if any(moved):
            self._committer.request()
