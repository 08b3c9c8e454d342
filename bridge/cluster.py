"""The upstream as the bridge sees it: brokers, who leads what, and a connection to each leader.

A shell. Owns the sockets; knows nothing of offsets. Two kinds of connections: `control`, to any
broker, for metadata, topic creation and producer ids, so that these never queue behind data; and a
lane for each broker that leads a partition, where Produce and the questions about a partition's
standing go in order. A lane is kept open, with back-off, as long as somebody wants it. A watch
gives up connections on which nothing moves.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final

from bridge import codes, messages
from bridge.backoff import Backoff
from bridge.config import Address, UpstreamConfig
from bridge.connection import Connection
from bridge.errors import ProtocolMismatch, Refused, Unreachable, UpstreamFault
from bridge.messages import Metadata

log = logging.getLogger(__name__)

_WATCH_S: Final = 0.5
_TOPIC_EXISTS: Final = 36


class Lane:
    """The connection to one broker for its partitions' data. `outstanding` is the owner's, in
    order.
    """

    def __init__(self, broker_id: int) -> None:
        self.broker_id = broker_id
        self.connection: Connection | None = None
        self.produce_version = 0
        self.quiet_until_ms = 0
        """The broker asked for no more until then (throttle_time_ms)."""
        self.outstanding: deque[Any] = deque()
        self.error: str | None = None
        self.is_asking = False

    @property
    def is_open(self) -> bool:
        return self.connection is not None


class Cluster:
    """Start with `watch` in a task; end with `close`."""

    def __init__(
        self,
        config: UpstreamConfig,
        *,
        clock_ms: Callable[[], int],
        rng: Random,
        lane_opened: Callable[[Lane], None],
        lane_lost: Callable[[Lane], None],
    ) -> None:
        self._config = config
        self._clock_ms = clock_ms
        self._rng = rng
        self._lane_opened = lane_opened
        self._lane_lost = lane_lost
        self._control: Connection | None = None
        self._next_address = 0
        self._lanes: dict[int, Lane] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._connections: set[Connection] = set()
        self._is_closing = False
        self.last_answer_ms: int | None = None
        self.metadata: Metadata | None = None
        self.metadata_ms = 0

    # -- questions to any broker

    async def refresh(self, topics: Sequence[str]) -> Metadata:
        """Asks for brokers and leaders. UpstreamFault."""
        found = messages.read_metadata(await self._ask(messages.metadata(topics)))
        self.metadata = found
        self.metadata_ms = self._clock_ms()
        return found

    async def create_topics(self, partition_counts: Mapping[str, int]) -> dict[str, str]:
        """Creates topics; those that exist are left alone. Gives what went wrong, by topic."""
        request = messages.create_topics(
            partition_counts,
            replication_factor=self._config.replication_factor,
            # The broker's patience ends before ours: else it says "timed out" to a connection that
            # we have just given up, and nobody ever hears why.
            timeout_ms=self._config.request_timeout_ms * 4 // 5,
        )
        wrong = {}
        answer = messages.read_create_topics(await self._ask(request))
        for topic, (code, message) in answer.items():
            if code == 0:
                log.info(
                    "bridge.topic-created topic=%s partitions=%d", topic, partition_counts[topic]
                )
            elif code != _TOPIC_EXISTS:
                wrong[topic] = codes.explain(code, message)
        return wrong

    async def new_producer_id(self) -> messages.ProducerId:
        """A producer id nobody had before. Refused (14 while the broker loads), UpstreamFault."""
        found = messages.read_init_producer_id(await self._ask(messages.init_producer_id()))
        if found.code:
            raise Refused("InitProducerId", found.code, codes.advice(found.code))
        return found

    async def tells_producers(self) -> bool:
        """Whether it can be asked later what it has of a producer. UpstreamFault."""
        if self._control is None:
            self._control = await self._open_control()
        return self._control.tells_producers

    async def _ask(self, request: Any) -> bytes:
        if self._control is None:
            self._control = await self._open_control()
        connection = self._control
        if connection not in self._connections:
            self._control = None
            raise Unreachable(f"{connection.address}: closed as soon as it was open")
        try:
            return await connection.ask(request)
        except UpstreamFault:
            self._drop(connection)
            raise

    async def _open_control(self) -> Connection:
        """The next address that answers: brokers known from metadata, then the configured ones."""
        addresses = list(self._addresses())
        fault: UpstreamFault | None = None
        for _ in addresses:
            address = addresses[self._next_address % len(addresses)]
            self._next_address += 1
            try:
                return await self._open(address)
            except UpstreamFault as error:
                fault = error
        raise fault or Unreachable("no broker is configured")

    def _addresses(self) -> Iterator[Address]:
        seen = set()
        known = self.metadata.brokers.values() if self.metadata else ()
        for address in (
            *(Address(host=broker.host, port=broker.port) for broker in known),
            *self._config.bootstrap,
        ):
            if address not in seen:
                seen.add(address)
                yield address

    # -- lanes

    def lanes(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def want_lanes(self, broker_ids: set[int]) -> None:
        """Lanes to these brokers are opened and kept; others are closed."""
        for broker_id in broker_ids - self._lanes.keys():
            self._lanes[broker_id] = Lane(broker_id)
        for broker_id in self._lanes.keys() - broker_ids:
            lane = self._lanes.pop(broker_id)
            if task := self._opening.pop(broker_id, None):
                task.cancel()
            if lane.connection is not None:
                connection, lane.connection = lane.connection, None
                connection.give_up()
                self._lane_lost(lane)
        for lane in self._lanes.values():
            self._open_lane(lane)

    def lane(self, broker_id: int) -> Lane | None:
        return self._lanes.get(broker_id)

    def _open_lane(self, lane: Lane) -> None:
        if lane.connection is None and lane.broker_id not in self._opening:
            task = asyncio.create_task(self._keep_opening(lane))
            self._opening[lane.broker_id] = task

    async def _keep_opening(self, lane: Lane) -> None:
        """Tries until the lane is open; the address may change with the metadata."""
        limits = self._config.limits
        retry = Backoff(min_ms=limits.backoff_min_ms, rng=self._rng)
        while lane.connection is None:
            try:
                await self._try_opening(lane)
            except Exception as error:
                if not isinstance(error, UpstreamFault):
                    log.error("bridge.bug broker=%d", lane.broker_id, exc_info=error)
                lane.error = str(error) or repr(error)
                wait_ms = retry.failed(self._clock_ms(), max_ms=limits.backoff_max_ms)
                log.info(
                    "bridge.connect-failed broker=%d again_in_ms=%d error=%s",
                    *(lane.broker_id, wait_ms, error),
                )
                await asyncio.sleep(wait_ms / 1000)
        self._opening.pop(lane.broker_id, None)
        lane.error = None
        log.info("bridge.connected broker=%d", lane.broker_id)
        self._lane_opened(lane)

    async def _try_opening(self, lane: Lane) -> None:
        broker = self.metadata.brokers.get(lane.broker_id) if self.metadata else None
        if broker is None:
            raise Unreachable(f"broker {lane.broker_id} is not in the cluster now")
        connection = await self._open(Address(host=broker.host, port=broker.port))
        try:
            lane.produce_version = connection.produce_version
        except ProtocolMismatch:
            connection.give_up()
            raise
        if connection not in self._connections:
            raise Unreachable(f"{connection.address}: closed as soon as it was open")
        lane.connection = connection

    # -- connections

    async def _open(self, address: Address) -> Connection:
        connection = Connection(address, self._config, self._closed)
        self._connections.add(connection)
        try:
            await connection.open(connect_timeout_ms=self._config.limits.connect_timeout_ms)
        except BaseException:
            self._connections.discard(connection)
            raise
        self._note_answers(connection)
        return connection

    def _closed(self, connection: Connection) -> None:
        """aiokafka calls this for whatever reason a connection ends."""
        self._note_answers(connection)
        self._connections.discard(connection)
        if connection is self._control:
            self._control = None
        for lane in self._lanes.values():
            if lane.connection is connection:
                lane.connection = None
                lane.error = f"connection to {connection.address} lost"
                self._lane_lost(lane)
                if not self._is_closing:
                    self._open_lane(lane)

    def _drop(self, connection: Connection) -> None:
        connection.give_up()
        if connection is self._control:
            self._control = None

    async def watch(self) -> None:
        """Gives up connections on which nothing moves. Runs until it is cancelled."""
        patience_ms = self._config.request_timeout_ms
        while True:
            await asyncio.sleep(_WATCH_S)
            now_ms = self._clock_ms()
            for connection in list(self._connections):
                self._note_answers(connection)
                if connection.is_open and connection.stalled(now_ms, patience_ms):
                    log.warning("bridge.stalled address=%s", connection.address)
                    connection.give_up()

    def _note_answers(self, connection: Connection) -> None:
        if connection.answer_count != connection.noted_count:
            connection.noted_count = connection.answer_count
            self.last_answer_ms = self._clock_ms()

    async def close(self) -> None:
        """Closes everything; `lane_lost` is called for lanes that were open."""
        self._is_closing = True
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        self._opening.clear()
        for connection in list(self._connections):
            connection.give_up()
        self._lanes.clear()
