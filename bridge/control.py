"""What must be so before data can flow: metadata, topics, producer ids, where to go on.

A shell: one task that looks at the channels, asks the cluster for what is missing, and waits with
back-off when it cannot be had. Questions about standing go to each leader on its lane, in a task of
their own, so that one silent broker does not hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from bridge import codes, messages
from bridge.backoff import Backoff
from bridge.channel import Channel, wall_ms
from bridge.cluster import Cluster, Lane
from bridge.codes import Meaning
from bridge.config import UpstreamConfig
from bridge.errors import ProtocolMismatch, UpstreamFault
from bridge.messages import LastAppended, Metadata, Topic
from bridge.position import PLAIN, Identity, Standing
from bridge.state import (
    KeptIdentity,
    decode_identity,
    encode_identity,
    partition_producer_key,
    producer_key,
)
from bridge.wire import TopicKey
from log import Committer, Log, LogError

logger = logging.getLogger(__name__)

_KNOWS_NOTHING: Final = LastAppended(code=0, epoch=-1, sequence=None)
_UNKNOWN_TOPIC: Final = 3
_REFRESH_PAUSE_MS: Final = 400
"""Between two looks at metadata that somebody asks for: a leader election takes longer."""


class Control:
    """`run` in a task. `poke` when a channel may want something."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        cluster: Cluster,
        log: Log,
        committer: Committer,
        config: UpstreamConfig,
        clock_ms: Callable[[], int],
        rng: Random,
        changed: Callable[[], None],
    ) -> None:
        self._channels = channels
        self._cluster = cluster
        self._log = log
        self._committer = committer
        self._config = config
        self._clock_ms = clock_ms
        self._rng = rng
        self._changed = changed
        self._wake = asyncio.Event()
        self._stale = True
        self._look = Backoff(min_ms=_REFRESH_PAUSE_MS, rng=rng)
        """Looks at metadata in a row that found something in the way."""
        self._asking: set[asyncio.Task[None]] = set()
        self.is_plain = False
        self._topics = sorted({channel.topic for channel in channels})
        self.cluster_id: str | None = None
        self.error: str | None = None

    def poke(self) -> None:
        self._wake.set()

    def leaders_moved(self) -> None:
        """Something said that metadata is not true any more."""
        self._stale = True
        self._look.succeeded()
        self._wake.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        retry = Backoff(min_ms=self._config.limits.backoff_min_ms, rng=self._rng)
        while True:
            self._wake.clear()
            try:
                wait_ms = await self._turn()
            except LogError as error:
                self.error = str(error)  # the journal failed: the gateway stops, and says why
                return
            except Exception as error:
                self._note(error)
                wait_ms = retry.failed(self._clock_ms(), max_ms=self._config.limits.backoff_max_ms)
                await asyncio.sleep(wait_ms / 1000)
                continue
            retry.succeeded()
            self.error = None
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _note(self, error: Exception) -> None:
        if not isinstance(error, UpstreamFault):
            # Our bug: loud, but it must not be the end of replication.
            logger.error("bridge.bug upstream=%s", self._config.name, exc_info=error)
        elif self.error is None:
            logger.warning("bridge.unreachable upstream=%s error=%s", self._config.name, error)
        self.error = str(error) or repr(error)

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _turn(self) -> int:
        """One look at everything; gives after how long to look again without a poke."""
        now_ms = self._clock_ms()
        cluster = self._cluster
        age_ms = now_ms - cluster.metadata_ms
        answer_ms = cluster.last_answer_ms
        is_silent = answer_ms is None or now_ms - answer_ms >= self._config.limits.probe_ms
        # A leader that cannot be reached may not be one any more, whatever metadata said just now.
        self._stale |= any(not lane.is_open for lane in cluster.lanes())
        is_due = age_ms >= _REFRESH_PAUSE_MS and self._look.left_ms(now_ms) <= 0
        wanted = cluster.metadata is None or (self._stale and is_due)
        if wanted or is_silent or age_ms >= self._config.limits.metadata_age_ms:
            await self._refresh()
        await self._identify()
        for lane in list(cluster.lanes()):
            self._ask_standings(lane)
        self._stale |= any(not lane.is_open for lane in cluster.lanes())
        self._changed()
        return self._wait_ms()

    def _wait_ms(self) -> int:
        now_ms = self._clock_ms()
        waits = [self._config.limits.probe_ms // 2]
        if self._stale:
            waits.append(max(_REFRESH_PAUSE_MS, self._look.left_ms(now_ms)))
        for channel in self._channels:
            due_ms = channel.core.due_in_ms(now_ms)
            if due_ms is not None:
                waits.append(due_ms)
        return max(10, min(waits))

    # -- metadata and topics

    async def _refresh(self) -> None:
        # What is said while it is asked must not be forgotten, nor that an answer never came.
        self._stale = False
        try:
            await self._look_again()
        except BaseException:
            self._stale = True
            raise

    async def _look_again(self) -> None:
        metadata = await self._cluster.refresh(self._topics)
        missing = {
            name: sum(channel.topic == name for channel in self._channels)
            for name in self._topics
            if (topic := metadata.topics.get(name)) is None or topic.code == _UNKNOWN_TOPIC
        }
        wrong: dict[str, str] = {}
        if missing:
            wrong = await self._cluster.create_topics(missing)
            metadata = await self._cluster.refresh(self._topics)
        self._take_cluster_id(metadata.cluster_id)
        self._take_leaders(metadata, wrong)

    def _take_cluster_id(self, cluster_id: str) -> None:
        if self.cluster_id is not None and cluster_id != self.cluster_id:
            logger.error("bridge.other-cluster was=%s is=%s", self.cluster_id, cluster_id)
            for channel in self._channels:
                channel.core.renew("the upstream is another cluster than before")
        self.cluster_id = cluster_id

    def _take_leaders(self, metadata: Metadata, wrong: dict[str, str]) -> None:
        leaders: dict[int, int] = {}
        patience_ms = 0
        for number, channel in enumerate(self._channels):
            topic = metadata.topics.get(channel.topic)
            channel.obstacle = _obstacle(channel, topic, wrong.get(channel.topic))
            if channel.obstacle is None and topic is not None:
                leaders[number] = topic.leaders[channel.partition.index].broker_id
            else:
                self._stale = True
                patience_ms = max(patience_ms, self._patience_ms(channel, topic))
        if patience_ms:
            self._look.failed(self._clock_ms(), max_ms=patience_ms)
        else:
            self._look.succeeded()
        self._cluster.want_lanes(set(leaders.values()))
        for number, channel in enumerate(self._channels):
            topic = metadata.topics.get(channel.topic)
            if number in leaders and topic is not None:
                channel.led_by(
                    self._cluster.lane(leaders[number]),
                    topic.leaders[channel.partition.index].epoch,
                    TopicKey(name=topic.name, id=topic.id),
                )
            else:
                channel.led_by(None, -1, None)

    def _patience_ms(self, channel: Channel, topic: Topic | None) -> int:
        """How far to back off: a leader may be elected any moment, a topic waits for a person."""
        limits = self._config.limits
        is_led_soon = topic is not None and channel.partition.index in topic.leaders
        return limits.backoff_max_ms if is_led_soon else limits.obstacle_backoff_max_ms

    # -- identities

    async def _identify(self) -> None:
        now_ms = self._clock_ms()
        wanting = [channel for channel in self._channels if channel.core.wants_identity(now_ms)]
        if not wanting:
            return
        try:
            for channel in wanting:
                channel.core.identified(await self._identity_for(channel))
        except UpstreamFault as fault:
            for channel in wanting:
                if channel.core.identity is None:
                    channel.core.ask_failed(str(fault), self._clock_ms())
            if isinstance(fault, ProtocolMismatch):
                raise

    async def _identity_for(self, channel: Channel) -> Identity:
        """The kept one if it is of this cluster and not used up; else a new one, durable first.
        PLAIN where the upstream could not tell later what it has of it.
        """
        if not await self._cluster.tells_producers():
            if not self.is_plain:
                logger.warning(
                    "bridge.at-least-once upstream=%s reason=it has no DescribeProducers",
                    self._config.name,
                )
            self.is_plain = True
            return PLAIN
        shared = producer_key(self._config.name)
        partition = channel.partition
        own = partition_producer_key(self._config.name, partition.stream, partition.index)
        is_first = channel.core.counts.renewed == 0
        if is_first:
            for key in (own, shared):
                kept = decode_identity(self._log.get_state(key))
                if kept is not None and kept.cluster_id == self.cluster_id:
                    return kept.identity
        found = await self._cluster.new_producer_id()
        identity = Identity(producer_id=found.id, epoch=found.epoch)
        kept = KeptIdentity(identity=identity, cluster_id=self.cluster_id or "")
        key = shared if is_first else own
        self._log.put_state(key, encode_identity(kept))
        await self._committer.flush()
        logger.info("bridge.producer id=%d partition=%s", found.id, channel.core.label)
        return identity

    # -- where to go on

    def _ask_standings(self, lane: Lane) -> None:
        now_ms = self._clock_ms()
        if not lane.is_open or lane.is_asking:
            return
        channels = [
            channel
            for channel in self._channels
            if channel.lane is lane and channel.core.wants_standing(now_ms)
        ]
        if not channels:
            return
        for channel in channels:
            channel.core.asked()
        lane.is_asking = True
        task = asyncio.create_task(self._ask(lane, channels))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, lane: Lane, channels: Sequence[Channel]) -> None:
        """Four questions, sent together and answered in their order: see `position.Standing`."""
        epochs = {_where(channel): channel.leader_epoch for channel in channels}
        identities = {_where(c): c.core.identity for c in channels}
        producer_ids = {
            where: identity.producer_id for where, identity in identities.items() if identity
        }
        connection = lane.connection
        try:
            if connection is None:
                raise ProtocolMismatch("the lane closed")
            watermark = messages.list_offsets(epochs, log_end=False)
            replies = await asyncio.gather(
                connection.ask(watermark),
                connection.ask(messages.describe_producers(list(epochs)))
                if connection.tells_producers
                else _no_answer(),
                connection.ask(messages.list_offsets(epochs, log_end=True)),
                connection.ask(watermark),
            )
            leads = messages.read_list_offsets(replies[0])
            appended = (
                messages.read_describe_producers(replies[1], producer_ids)
                if connection.tells_producers
                else dict.fromkeys(epochs, _KNOWS_NOTHING)
            )
            ends = messages.read_list_offsets(replies[2])
            watermarks = messages.read_list_offsets(replies[3])
        except Exception as error:
            if not isinstance(error, UpstreamFault):
                logger.error("bridge.bug broker=%d", lane.broker_id, exc_info=error)
            for channel in channels:
                channel.core.ask_failed(str(error) or repr(error), self._clock_ms())
            return
        finally:
            lane.is_asking = False
            self._wake.set()
        for channel in channels:
            where = _where(channel)
            answers = (
                leads.get(where),
                appended.get(where),
                ends.get(where),
                watermarks.get(where),
            )
            lead, last, end, mark = answers
            if lead is None or last is None or end is None or mark is None:
                channel.core.ask_failed(
                    "the leader's answer misses this partition", self._clock_ms()
                )
                continue
            code = lead.code or last.code or end.code or mark.code
            if code:
                self._not_told(channel, code)
            elif epochs[where] == channel.leader_epoch and channel.lane is lane:
                standing = Standing(
                    epoch=last.epoch,
                    sequence=last.sequence,
                    leader_epoch=channel.leader_epoch,
                    log_end=end.offset,
                    high_watermark=mark.offset,
                )
                self._told(channel, standing)

    def _told(self, channel: Channel, standing: Standing) -> None:
        core = channel.core
        core.stands(standing, self._clock_ms(), wall_ms=wall_ms())
        logger.info(
            "bridge.stands partition=%s sequence=%s log_end=%d watermark=%d next=%d cursor=%d",
            core.label,
            standing.sequence,
            standing.log_end,
            standing.high_watermark,
            core.pipeline.next_offset,
            core.cursor,
        )

    def _not_told(self, channel: Channel, code: int) -> None:
        reason = codes.explain(code)
        channel.core.ask_failed(reason, self._clock_ms())
        if codes.meaning(code) is Meaning.MOVED:
            self.leaders_moved()


async def _no_answer() -> bytes:
    return b""


def _where(channel: Channel) -> messages.Partition:
    return channel.topic, channel.partition.index


def _obstacle(channel: Channel, topic: Topic | None, wrong: str | None) -> str | None:
    """Why nothing can be sent for this channel, in words for a person; None if nothing is in the
    way.
    """
    if wrong is not None:
        return f"topic {channel.topic} cannot be created: {wrong}"
    if topic is None:
        return f"topic {channel.topic} is not there"
    if topic.code:
        return f"topic {channel.topic}: {codes.explain(topic.code)}"
    leader = topic.leaders.get(channel.partition.index)
    if leader is None:
        return (
            f"topic {topic.name} has {len(topic.leaders)} partitions, none for"
            f" {channel.partition.stream}-{channel.partition.index}: add some"
            " (kafka-topics --alter --partitions)"
        )
    if leader.broker_id < 0:
        return f"{topic.name}-{channel.partition.index} has no leader now: bring brokers back"
    return None
