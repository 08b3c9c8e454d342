"""The batches of one partition between the log and the answer: read, loaded, in flight. Sans-I/O.

next offset <= read offset
|-- in flight --|-- loaded --|-- the plan that is out --|
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from bridge.limits import BridgeLimits
from bridge.position import Identity, Outgoing, ReadPlan, Shape

_LIVE_RECORDS_MAX = 4_000
"""Live records that do not wait for the linger: half of the log's biggest batch."""


class Pipeline:
    """At most one read plan is out. What comes back from a plan of before `forget` is ignored."""

    def __init__(self, limits: BridgeLimits, *, next_offset: int, linger_ms: int) -> None:
        self._limits = limits
        self._linger_ms = linger_ms
        self.next_offset = next_offset
        self.read_offset = next_offset
        self.in_flight: deque[Outgoing] = deque()
        self.loaded: deque[Outgoing] = deque()
        self._in_flight_bytes = 0
        self._loaded_bytes = 0
        self._plan: ReadPlan | None = None
        self._plan_count = 0
        self._live_read_ms = -linger_ms
        self._sealed_end = next_offset
        self._durable_end = next_offset

    def log_moved(self, *, sealed_end: int, durable_end: int) -> None:
        self._sealed_end = sealed_end
        self._durable_end = durable_end

    @property
    def has_unread(self) -> bool:
        """There are records that no plan has asked for."""
        return self._plan is None and self.read_offset < self._durable_end

    @property
    def held_bytes(self) -> int:
        """Memory: what is read, in flight, or may come from the plan that is out."""
        promised = 0 if self._plan is None else self._plan.bytes_max
        return self._loaded_bytes + self._in_flight_bytes + promised

    def plan(
        self, now_ms: int, *, bytes_free: int, identity: Identity, shape: Shape
    ) -> ReadPlan | None:
        """What to read next; None without room for a whole read (small reads cost as much as
        big ones), or if live records should wait for company.
        """
        room = min(bytes_free, self._limits.loaded_bytes_max - self._loaded_bytes)
        is_live = self.read_offset >= self._sealed_end
        if (
            room < self._limits.read_bytes
            or not self.has_unread
            or (is_live and not self._is_live_due(now_ms))
        ):
            return None
        if is_live:
            self._live_read_ms = now_ms
        self._plan_count += 1
        self._plan = ReadPlan(
            number=self._plan_count,
            offset=self.read_offset,
            bytes_max=self._limits.read_bytes,
            is_live=is_live,
            identity=identity,
            shape=shape,
        )
        return self._plan

    def linger_left_ms(self, now_ms: int) -> int:
        """How long live records still wait for company; 0 or less when they have waited enough."""
        return self._live_read_ms + self._linger_ms - now_ms

    def _is_live_due(self, now_ms: int) -> bool:
        """Not while as many batches as may be in flight are on their way: the next one grows."""
        if len(self.in_flight) + len(self.loaded) >= self._limits.in_flight_max:
            return False
        count = self._durable_end - self.read_offset
        return count >= _LIVE_RECORDS_MAX or self.linger_left_ms(now_ms) <= 0

    def take(self, plan: ReadPlan, batches: Sequence[Outgoing]) -> bool:
        """What the plan's reading gave, contiguous from its offset. False if it came too late."""
        if self._plan is not plan:
            return False
        self._plan = None
        for batch in batches:
            assert batch.first_offset == self.read_offset, "a hole in what was read"
            self.read_offset = batch.end_offset
            self.loaded.append(batch)
            self._loaded_bytes += batch.size_bytes
        return True

    def send(self) -> Outgoing:
        """The oldest loaded batch goes into flight."""
        batch = self.loaded.popleft()
        self._loaded_bytes -= batch.size_bytes
        self.in_flight.append(batch)
        self._in_flight_bytes += batch.size_bytes
        self.next_offset = batch.end_offset
        return batch

    def answered(self) -> Outgoing:
        """The oldest batch in flight is not in flight any more."""
        batch = self.in_flight.popleft()
        self._in_flight_bytes -= batch.size_bytes
        return batch

    def lose(self) -> None:
        """No answers will come to what is in flight."""
        self.in_flight.clear()
        self._in_flight_bytes = 0

    def forget(self) -> None:
        """What is read and not sent is of no use: the next read begins at the next offset."""
        self.loaded.clear()
        self._loaded_bytes = 0
        self._plan = None
        self.read_offset = self.next_offset

    def go_to(self, offset: int) -> None:
        self.next_offset = offset
        self.forget()
