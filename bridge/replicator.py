"""The replicator of one partition: what to send next, what an answer means, when the cursor moves.

Owns the position of one log partition in one upstream. Never does I/O, reads no clock, draws no
random numbers of its own: the shell (bridge.py) tells it what happened and asks what it wants.

    identity -> ask -> send -> (a failure: drain what is in flight) -> ask -> ...

The law; each point was tried against Apache Kafka:

1. The cursor moves only on what is replicated: an acks=all answer to the oldest batch in flight
   while
   nothing before it failed; or the high watermark passed the log end that was read after
   DescribeProducers, under one leader epoch. What DescribeProducers says decides only where to send
   on.
2. After any failure nothing more is sent until all that is in flight was answered or its connection
   is
   gone; then Kafka is asked. So a batch is never sent again by memory of how it was cut.
3. A broker that knows nothing of our producer takes any sequence. Therefore, until one batch of
   ours is
   known to be replicated (`anchored`), one goes alone, and nothing goes past an unreplicated claim:
   a gap could otherwise be accepted in silence.
4. Where Kafka forgot our producer, what may have been sent and is not known to be replicated is
   sent
   again, marked and counted; `attempt`, durable before the first record of it is sent, bounds that.
5. No record is skipped in silence. What cannot be accepted is framed otherwise (remedies.py) and
   then
   called stuck; what retention or damage took away before it was replicated is counted and logged.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from enum import Enum
from random import Random

from bridge import codes
from bridge.backoff import backoff_ms
from bridge.codes import Meaning
from bridge.limits import BridgeLimits
from bridge.position import Attempt, Claim, Identity, Outgoing, ReadPlan, Standing, offset_after
from bridge.remedies import Remedies

log = logging.getLogger(__name__)

_CODE_OUT_OF_ORDER = 45
_LIVE_RECORDS_MAX = 4_000
"""Live records that do not wait for the linger: half of the log's biggest batch."""


class State(Enum):
    """What a person is shown."""

    IDENTIFYING = "no producer id yet"
    ASKING = "asking the upstream where to go on"
    SENDING = "sending"
    WAITING = "waiting to try again"
    STUCK = "stuck: the upstream does not take the next records"
    REPLICATED = "everything is upstream"


class Replicator:
    """The core. Methods named `wants_*` and `next_batch` ask; the others tell."""

    def __init__(
        self,
        *,
        label: str,
        start_offset: int,
        durable_end: int,
        cursor: int | None,
        attempt: Attempt | None,
        limits: BridgeLimits,
        linger_ms: int,
        rng: Random,
    ) -> None:
        self.label = label
        self._limits = limits
        self._linger_ms = linger_ms
        self._rng = rng
        self.identity: Identity | None = None

        # cursor <= next_offset <= read_offset <= durable_end
        self.cursor = start_offset if cursor is None else cursor
        self.next_offset = self.cursor
        self._read_offset = self.cursor
        self._start_offset = start_offset
        self._sealed_end = start_offset
        self._durable_end = durable_end

        self.is_confirmed = cursor is not None
        self._anchored = False
        self._claim: Claim | None = None
        self._attempt = attempt
        # Below it is all that may have been sent, by this process or the one before. It never goes
        # back: a request of before a break may still be in a broker's queue, and be carried out.
        self._maybe_sent_end = self.cursor
        if attempt is not None:
            self._maybe_sent_end = max(self.cursor, min(attempt.until, durable_end))

        self._asking = True
        self._asked = False
        self._broken = False
        self._in_flight: deque[Outgoing] = deque()
        self._loaded: deque[Outgoing] = deque()
        self._reading: ReadPlan | None = None
        self._read_number = 0
        self._live_read_ms = -linger_ms
        self._loaded_bytes = 0
        self._in_flight_bytes = 0

        self._remedies = Remedies(limits)
        if attempt is not None:
            self._remedies.mark_until(attempt.mark_until)
        self._due_ms = 0
        self._failures = 0
        self._polls = 0
        self._contradictions = 0

        self.last_ok_ms: int | None = None
        self.error: str | None = None
        self.sent_count = 0
        self.resent_count = 0
        self.forgotten_count = 0
        self.dropped_count = 0
        self.upstream_lost_count = 0
        self.renewed_count = 0

    # -- what is wanted

    def wants_identity(self, now_ms: int) -> bool:
        """A producer id is needed: `identified` or `identify_failed` must follow."""
        return self.identity is None and not self._in_flight and now_ms >= self._due_ms

    def wants_standing(self, now_ms: int) -> bool:
        """Kafka is to be asked: `asked`, then `stands` or `ask_failed` must follow."""
        if self.identity is None or self._asked or self._in_flight or now_ms < self._due_ms:
            return False
        if self._asking:
            return True
        return self._claim is not None and not (self._may_send() and self._has_more())

    def wants_attempt(self, *, wall_ms: int) -> Attempt | None:
        """What must be durable, and then told to `attempt_durable`, before more can be sent."""
        if not self._loaded or not self._may_send() or self._allowed(self._loaded[0]):
            return None
        until = self._loaded[-1].end_offset + self._limits.attempt_ahead
        is_first = self._attempt is None or self.is_confirmed
        at_ms = wall_ms if is_first or self._attempt is None else self._attempt.at_ms
        return Attempt(until=until, at_ms=at_ms, mark_until=self._remedies.marked_until)

    def wants_read(self, now_ms: int, *, bytes_free: int) -> ReadPlan | None:
        """What to read and frame; `loaded` or `load_failed` must follow. One is out at a time."""
        if not self._may_send() or self._reading is not None or self.identity is None:
            return None
        room = min(bytes_free, self._limits.loaded_bytes_max - self._loaded_bytes)
        if room <= 0 or not self._worth_reading(now_ms):
            return None
        is_live = self._read_offset >= self._sealed_end
        if is_live:
            self._live_read_ms = now_ms
        self._read_number += 1
        self._reading = ReadPlan(
            number=self._read_number,
            offset=self._read_offset,
            bytes_max=min(room, self._limits.read_bytes),
            is_live=is_live,
            identity=self.identity,
            shape=self._remedies.shape(),
        )
        return self._reading

    def next_batch(self, now_ms: int) -> Outgoing | None:
        """The batch that may go into a Produce now; `sent` must follow if it does."""
        if not self._loaded or not self._may_send() or not self._allowed(self._loaded[0]):
            return None
        if len(self._in_flight) >= self._window(now_ms):
            return None
        return self._loaded[0]

    def due_in_ms(self, now_ms: int) -> int | None:
        """After how long to ask again though nothing happens; None: only an event matters."""
        if self.identity is None or self._asking or self._claim is not None:
            wait_ms = self._due_ms - now_ms
        elif self._reading is None and self._read_offset < self._durable_end:
            wait_ms = self._live_read_ms + self._linger_ms - now_ms
        else:
            return None
        return wait_ms if wait_ms > 0 else None

    # -- what happened

    def log_moved(self, *, start_offset: int, sealed_end: int, durable_end: int) -> None:
        """The log grew, or retention removed its head."""
        self._start_offset = start_offset
        self._sealed_end = sealed_end
        self._durable_end = durable_end
        if self._read_offset < start_offset and not (self._asking or self._broken):
            self._break()

    def identified(self, identity: Identity) -> None:
        """`identity` is durable in the log's state."""
        self.identity = identity
        self._failures = 0
        self._ask_again()

    def identify_failed(self, reason: str, now_ms: int) -> None:
        self.error = reason
        self._back_off(now_ms)

    def asked(self) -> None:
        """Kafka is being asked. Nothing is sent until it answers, so that the answer stays true."""
        self._asked = True

    def stands(self, standing: Standing, now_ms: int, *, wall_ms: int) -> None:
        """Kafka said what it has. Nothing, if something else happened meanwhile."""
        if not self._asked or self.identity is None:
            return
        self._asked = False
        if standing.sequence is None:
            self._go_on_from_nothing(wall_ms)
        elif standing.epoch != self.identity.epoch:
            self._renew(f"epoch {standing.epoch} of our producer id is in use")
        else:
            self._go_on_after(standing.sequence, standing)
        if self._claim is not None:
            self._due_ms = now_ms + self._backoff(self._polls)
            self._polls += 1

    def ask_failed(self, reason: str, now_ms: int) -> None:
        self._asked = False
        self.error = reason
        self._back_off(now_ms)

    def attempt_durable(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def loaded(self, plan: ReadPlan, batches: Sequence[Outgoing]) -> None:
        """What a plan's reading gave, contiguous from its offset. Nothing, if it came too late."""
        if self._reading is not plan:
            return
        self._reading = None
        for batch in batches:
            assert batch.first_offset == self._read_offset, f"{self.label}: a hole in what was read"
            self._read_offset = batch.end_offset
            self._loaded.append(batch)
            self._loaded_bytes += batch.size_bytes

    def load_failed(
        self, plan: ReadPlan, reason: str, now_ms: int, *, hole_end: int | None = None
    ) -> None:
        """The log could not give the records at the plan's offset: they are damaged or, up to
        `hole_end`, not there."""
        if self._reading is not plan:
            return
        self._reading = None
        if self._in_flight or self._loaded:
            return  # what comes before it is sent first
        self.error = reason
        if hole_end is None:
            self._remedies.unreadable()
            self._break()
            self._back_off(now_ms)
        else:
            self._skip(self.next_offset, hole_end, reason)

    def sent(self) -> Outgoing:
        """The batch of `next_batch` is in a request."""
        batch = self._loaded.popleft()
        self._loaded_bytes -= batch.size_bytes
        self._in_flight.append(batch)
        self._in_flight_bytes += batch.size_bytes
        self.next_offset = batch.end_offset
        self._maybe_sent_end = max(self._maybe_sent_end, batch.end_offset)
        return batch

    def produced(self, code: int, message: str | None, now_ms: int) -> None:
        """The answer to the oldest batch in flight. `cursor` may have moved."""
        batch = self._in_flight.popleft()
        self._in_flight_bytes -= batch.size_bytes
        if not self._broken:
            if code == 0:
                self._succeed(batch, now_ms)
            else:
                self._fail(batch, code, message, now_ms)
        if self._broken and not self._in_flight:
            self._ask_again()

    def lost(self) -> None:
        """The connection is gone, and with it the answers to all that is in flight."""
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._break()

    def moved(self, *, is_new_topic: bool = False) -> None:
        """The partition has another leader, or its topic was deleted and made again."""
        if is_new_topic:
            self._anchored = False
        self._break()

    def renew(self, reason: str) -> None:
        """The producer id means nothing to this upstream; another is needed."""
        self._break()
        self._renew(reason)

    # -- what it is like

    @property
    def held_bytes(self) -> int:
        """Memory: what is read, in flight, or may come from the plan that is out."""
        promised = 0 if self._reading is None else self._reading.bytes_max
        return self._loaded_bytes + self._in_flight_bytes + promised

    @property
    def in_flight_count(self) -> int:
        return len(self._in_flight)

    @property
    def lag_count(self) -> int:
        """Records that are durable here and not known to be replicated upstream."""
        return self._durable_end - max(self.cursor, self._start_offset)

    @property
    def state(self) -> State:
        if self._remedies.is_stuck:
            return State.STUCK
        if self.identity is None:
            return State.IDENTIFYING
        if self._asking or self._broken:
            return State.WAITING if self._failures else State.ASKING
        return State.SENDING if self.lag_count else State.REPLICATED

    # -- sending

    def _may_send(self) -> bool:
        if self._asking or self._asked or self._broken:
            return False
        return self._anchored or self._claim is None

    def _has_more(self) -> bool:
        return self.next_offset < self._durable_end

    def _window(self, now_ms: int) -> int:
        """Law 3; and alone after a silence in which Kafka may have expired what it knew."""
        if not self._anchored or self.last_ok_ms is None:
            return 1
        if self.identity is None or not self.identity.is_idempotent:
            return 1  # nothing but waiting keeps the order
        is_idle = now_ms - self.last_ok_ms > self._limits.idle_alone_ms
        return 1 if is_idle else self._limits.in_flight_max

    def _allowed(self, batch: Outgoing) -> bool:
        attempt = self._attempt
        if attempt is None or attempt.mark_until != self._remedies.marked_until:
            return False
        return batch.end_offset <= attempt.until

    def _worth_reading(self, now_ms: int) -> bool:
        if self._read_offset < self._sealed_end:
            return True
        live_count = self._durable_end - self._read_offset
        if live_count <= 0:
            return False
        if len(self._in_flight) + len(self._loaded) >= self._limits.in_flight_max:
            return False  # the batch grows meanwhile
        due = now_ms - self._live_read_ms >= self._linger_ms
        return due or live_count >= _LIVE_RECORDS_MAX

    def _succeed(self, batch: Outgoing, now_ms: int) -> None:
        self.cursor = batch.end_offset
        self.sent_count += batch.end_offset - batch.first_offset
        self.resent_count += batch.resent_count
        self.last_ok_ms = now_ms
        self.is_confirmed = self._anchored = True
        self._remedies.accepted()
        self._failures = self._contradictions = 0
        self.error = None
        if self._claim is not None and self.cursor >= self._claim.end_offset:
            self._claim = None

    def _fail(self, batch: Outgoing, code: int, message: str | None, now_ms: int) -> None:
        """The first failure of a pipeline; what is behind it will fail for its sake."""
        what = codes.meaning(code)
        self.error = f"{codes.name(code)}: {codes.advice(code)}"
        if message:
            self.error += f" [{message}]"
        log.log(
            logging.INFO if what in (Meaning.ASK, Meaning.MOVED) else logging.WARNING,
            "bridge.refused partition=%s code=%s first=%d end=%d bytes=%d",
            *(self.label, codes.name(code), batch.first_offset, batch.end_offset, batch.size_bytes),
        )
        self._break()
        if what is Meaning.FENCED:
            self._renew(self.error)
        elif what in (Meaning.SPLIT, Meaning.RESTAMP, Meaning.BAD_BATCH):
            if self._remedies.refused(what, batch):
                log.error("bridge.stuck partition=%s error=%s", self.label, self.error)
        elif code == _CODE_OUT_OF_ORDER:
            self._contradictions += 1
            if self._contradictions >= self._limits.contradiction_after:
                self._contradictions = 0
                self._renew("the upstream contradicts itself about what it has")
        self._back_off(now_ms)

    def _break(self) -> None:
        """Nothing more is sent until Kafka was asked (law 2)."""
        self._broken = True
        self._forget_loaded()
        if not self._in_flight:
            self._ask_again()

    def _ask_again(self) -> None:
        self._broken = False
        self._asking = True
        self._asked = False
        self._forget_loaded()

    def _forget_loaded(self) -> None:
        self._loaded.clear()
        self._loaded_bytes = 0
        self._reading = None
        self._read_offset = self.next_offset

    def _back_off(self, now_ms: int) -> None:
        self._due_ms = now_ms + self._backoff(self._failures)
        self._failures += 1

    def _backoff(self, attempt: int) -> int:
        limits = self._limits
        stuck = self._remedies.is_stuck
        max_ms = limits.stuck_backoff_max_ms if stuck else limits.backoff_max_ms
        return backoff_ms(attempt, min_ms=limits.backoff_min_ms, max_ms=max_ms, rng=self._rng)

    # -- going on

    def _renew(self, reason: str) -> None:
        """Our producer cannot go on in this partition: another one begins at the cursor."""
        log.warning("bridge.renew-producer partition=%s reason=%s", self.label, reason)
        self.error = reason
        self.identity = None
        self.renewed_count += 1
        self._claim = None
        self._anchored = False

    def _go_on_from_nothing(self, wall_ms: int) -> None:
        """Kafka knows nothing of our producer (law 4)."""
        self._anchored = False
        self._claim = None
        attempt = self._attempt
        is_young = attempt is not None and wall_ms - attempt.at_ms < self._limits.never_reached_ms
        is_told = self.identity is not None and self.identity.is_idempotent
        never_arrived = is_told and is_young and not (self.is_confirmed or self.renewed_count)
        if attempt is not None and not never_arrived and self._maybe_sent_end > self.cursor:
            self.forgotten_count += 1
            self._remedies.mark_until(self._maybe_sent_end)
            log.warning(
                "bridge.forgotten partition=%s marked_from=%d marked_to=%d",
                *(self.label, self.cursor, self._maybe_sent_end),
            )
        if self.cursor < self._start_offset:
            self._count_dropped(self.cursor, self._start_offset)
        self._go_on(self.cursor)

    def _go_on_after(self, sequence: int, standing: Standing) -> None:
        """Kafka's last record of ours has that sequence."""
        end = self._maybe_sent_end
        if self._attempt is not None:
            end = max(end, min(self._attempt.until, self._durable_end))
        offset = offset_after(sequence, near=self.cursor, end=end)
        if offset < self.cursor:
            if offset < self._start_offset:
                self._renew(
                    f"the upstream's last sequence {sequence} is none that we can go on from"
                )
                return
            self._upstream_lost(offset)
        self._claim_up_to(offset, standing)
        if offset < self._start_offset:
            self._skip(offset, self._start_offset, "retention removed what was not replicated")
            return
        self._go_on(offset)

    def _upstream_lost(self, offset: int) -> None:
        """It had acknowledged more than it now has (unclean election): what is still here goes
        again.
        """
        self.upstream_lost_count += self.cursor - offset
        log.error(
            "bridge.upstream-lost partition=%s from=%d to=%d", self.label, offset, self.cursor
        )
        self.cursor = offset
        self.is_confirmed = self._anchored = False

    def _skip(self, offset: int, end: int, reason: str) -> None:
        """What is next is gone: a hole in the sequence, which only a new producer passes."""
        self._count_dropped(offset, end)
        self._maybe_sent_end = self.next_offset = end
        self._break()
        self._renew(reason)

    def _count_dropped(self, offset: int, end: int) -> None:
        self.dropped_count += end - offset
        self.cursor = end
        log.error("bridge.gap partition=%s from=%d to=%d", self.label, offset, end)

    def _claim_up_to(self, offset: int, standing: Standing) -> None:
        """Law 1: what the leader has counts once the watermark has passed it."""
        log_end = standing.log_end
        old = self._claim
        if old and (old.end_offset, old.leader_epoch) == (offset, standing.leader_epoch):
            log_end = min(log_end, old.log_end)
        self._claim = None
        if offset == self.cursor and self.is_confirmed:
            self._anchored = True
        elif standing.high_watermark >= log_end:
            self.cursor = offset
            self.is_confirmed = self._anchored = True
        else:
            self._claim = Claim(
                end_offset=offset, leader_epoch=standing.leader_epoch, log_end=log_end
            )

    def _go_on(self, offset: int) -> None:
        self._asking = False
        self.next_offset = offset
        self._maybe_sent_end = max(self._maybe_sent_end, offset)
        self._polls = 0 if self._claim is None else self._polls
        self._forget_loaded()
