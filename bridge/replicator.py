"""The replicator of one partition: what to send next, what an answer means, when to ask Kafka.

Owns the course of one log partition in one upstream. Never does I/O, reads no clock, draws no
random numbers of its own: the shell (channel.py, control.py, bridge.py) tells it what happened and
asks what it wants.

    identity -> ask -> send -> (a failure: drain what is in flight) -> ask -> ...

The law; each point was tried against Apache Kafka:

1. The cursor moves only on what is replicated: an acks=all answer to the oldest batch in flight
   while nothing before it failed; or the high watermark passed what the leader said it has. What
   the leader has decides only where to send on. (known.py)
2. After any failure nothing more is sent until all that is in flight was answered or its connection
   is gone; then Kafka is asked. So a batch is never sent again by memory of how it was cut.
3. A broker that knows nothing of our producer takes any sequence, also one behind a gap. Therefore,
   until one batch of ours is known to be replicated, one goes alone, and none past an open claim.
4. Where Kafka forgot our producer, what may have been sent and is not known to be replicated is
   sent again, marked and counted; `attempt`, durable before the first record of it, bounds that.
5. No record is skipped in silence. What cannot be accepted is framed otherwise (remedies.py), then
   called stuck; what retention or damage took before it was replicated is counted and logged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from random import Random

from bridge import codes
from bridge.backoff import Backoff
from bridge.codes import Meaning
from bridge.known import Known
from bridge.limits import BridgeLimits
from bridge.pipeline import Pipeline
from bridge.position import (
    Attempt,
    Counts,
    Identity,
    Outgoing,
    ReadPlan,
    Standing,
    State,
)
from bridge.remedies import Remedies

log = logging.getLogger(__name__)

_CODE_OUT_OF_ORDER = 45


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
        self.identity: Identity | None = None
        self.known = Known(
            start_offset=start_offset, durable_end=durable_end, cursor=cursor, attempt=attempt
        )
        self.pipeline = Pipeline(limits, next_offset=self.known.cursor, linger_ms=linger_ms)
        self._remedies = Remedies(limits)
        if attempt is not None:
            self._remedies.mark_until(attempt.mark_until)
        self._start_offset = start_offset
        self._durable_end = durable_end
        self._asking = True
        """Kafka must be asked before anything is sent."""
        self._asked = False
        """It is being asked."""
        self._broken = False
        """Something failed, and what was sent behind it is still in flight."""
        self._retry = Backoff(min_ms=limits.backoff_min_ms, rng=rng)
        self._poll = Backoff(min_ms=limits.backoff_min_ms, rng=rng)
        self._contradiction_count = 0
        self.last_ok_ms: int | None = None
        self.error: str | None = None
        self.counts = Counts()

    # -- what is wanted

    def wants_identity(self, now_ms: int) -> bool:
        """A producer id is needed: `identified` or `ask_failed` must follow."""
        is_due = self._retry.left_ms(now_ms) <= 0
        return self.identity is None and not self.pipeline.in_flight and is_due

    def wants_standing(self, now_ms: int) -> bool:
        """Kafka is to be asked: `asked`, then `stands` or `ask_failed` must follow."""
        if self.identity is None or self._asked or self.pipeline.in_flight:
            return False
        if self._asking:
            return self._retry.left_ms(now_ms) <= 0
        has_more = self.pipeline.next_offset < self._durable_end
        if self.known.claim is None or (has_more and self._may_send()):
            return False
        return self._poll.left_ms(now_ms) <= 0

    def wants_attempt(self, *, wall_ms: int) -> Attempt | None:
        """What must be durable, and then told to `attempt_durable`, before more can be sent."""
        loaded = self.pipeline.loaded
        if not loaded or not self._may_send() or self._allowed(loaded[0]):
            return None
        until = loaded[-1].end_offset + self._limits.attempt_ahead
        mark_until = self._remedies.marked_until
        return self.known.next_attempt(until, mark_until=mark_until, wall_ms=wall_ms)

    def wants_read(self, now_ms: int, *, bytes_free: int) -> ReadPlan | None:
        """What to read and frame; `loaded` or `load_failed` must follow. One is out at a time."""
        if not self._may_send() or self.identity is None:
            return None
        shape, identity = self._remedies.shape(), self.identity
        return self.pipeline.plan(now_ms, bytes_free=bytes_free, identity=identity, shape=shape)

    def next_batch(self, now_ms: int) -> Outgoing | None:
        """The batch that may go into a Produce now; `sent` must follow if it does."""
        loaded = self.pipeline.loaded
        if not loaded or not self._may_send() or not self._allowed(loaded[0]):
            return None
        if len(self.pipeline.in_flight) >= self._window(now_ms):
            return None
        return loaded[0]

    def due_in_ms(self, now_ms: int) -> int | None:
        """After how long to ask again though nothing happens; None: only an event matters."""
        if self.identity is None or self._asking:
            wait_ms = self._retry.left_ms(now_ms)
        elif self.known.claim is not None:
            wait_ms = self._poll.left_ms(now_ms)
        else:
            wait_ms = self.pipeline.linger_left_ms(now_ms) if self.pipeline.has_unread else 0
        return wait_ms if wait_ms > 0 else None

    # -- what happened

    def log_moved(self, *, start_offset: int, sealed_end: int, durable_end: int) -> None:
        """The log grew, or retention removed its head."""
        self._start_offset = start_offset
        self._durable_end = durable_end
        self.pipeline.log_moved(sealed_end=sealed_end, durable_end=durable_end)
        if self.pipeline.read_offset < start_offset and not (self._asking or self._broken):
            self._break()

    def identified(self, identity: Identity) -> None:
        """`identity` is durable in the log's state."""
        self.identity = identity
        self._retry.succeeded()
        self._ask_again()

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
        if self.known.claim is None:
            self._poll.succeeded()
        else:
            self._poll.failed(now_ms, max_ms=self._limits.backoff_max_ms)

    def ask_failed(self, reason: str, now_ms: int) -> None:
        self._asked = False
        self.error = reason
        self._back_off(now_ms)

    def attempt_durable(self, attempt: Attempt) -> None:
        self.known.attempt = attempt

    def loaded(self, plan: ReadPlan, batches: Sequence[Outgoing]) -> None:
        """What a plan's reading gave, contiguous from its offset. Nothing, if it came too late."""
        self.pipeline.take(plan, batches)

    def load_failed(
        self, plan: ReadPlan, reason: str, now_ms: int, *, hole_end: int | None = None
    ) -> None:
        """The log could not give the records at the plan's offset: they are damaged or, up to
        `hole_end`, not there.
        """
        pipeline = self.pipeline
        if not pipeline.take(plan, ()) or pipeline.in_flight or pipeline.loaded:
            return  # too late, or what comes before it is sent first
        self.error = reason
        if hole_end is not None and self.known.claim is None:
            self._skip(pipeline.next_offset, hole_end, reason)
            return
        if hole_end is None:
            self._remedies.unreadable()
        # Passing a hole would count an open claim as replicated (law 1): the claim comes first.
        self._break()
        self._back_off(now_ms)

    def sent(self) -> Outgoing:
        """The batch of `next_batch` is in a request."""
        batch = self.pipeline.send()
        self.known.sent(batch.end_offset)
        return batch

    def produced(self, code: int, message: str | None, now_ms: int) -> None:
        """The answer to the oldest batch in flight. `cursor` may have moved."""
        batch = self.pipeline.answered()
        if not self._broken:
            if code == 0:
                self._succeed(batch, now_ms)
            else:
                self._fail(batch, code, message, now_ms)
        if self._broken and not self.pipeline.in_flight:
            self._ask_again()

    def lost(self) -> None:
        """The connection is gone, and with it the answers to all that is in flight."""
        self.pipeline.lose()
        self._break()

    def moved(self, *, is_new_topic: bool = False) -> None:
        """The partition has another leader, or its topic was deleted and made again."""
        if is_new_topic:
            self.known.drop_anchor()
        self._break()

    def renew(self, reason: str) -> None:
        """The producer id means nothing to this upstream; another is needed."""
        self._break()
        self._renew(reason)

    # -- what it is like

    @property
    def cursor(self) -> int:
        """Everything below is replicated upstream."""
        return self.known.cursor

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
            return State.WAITING if self._retry.failure_count else State.ASKING
        return State.SENDING if self.lag_count else State.REPLICATED

    # -- sending

    def _may_send(self) -> bool:
        if self._asking or self._asked or self._broken:
            return False
        return self.known.is_anchored or self.known.claim is None

    def _window(self, now_ms: int) -> int:
        """Law 3; and alone after a silence in which Kafka may have expired what it knew."""
        if not self.known.is_anchored or self.last_ok_ms is None:
            return 1
        if self.identity is None or not self.identity.is_idempotent:
            return 1  # nothing but waiting keeps the order of what carries no sequence
        is_idle = now_ms - self.last_ok_ms > self._limits.idle_alone_ms
        return 1 if is_idle else self._limits.in_flight_max

    def _allowed(self, batch: Outgoing) -> bool:
        return self.known.may_send_to(batch.end_offset, mark_until=self._remedies.marked_until)

    def _succeed(self, batch: Outgoing, now_ms: int) -> None:
        self.known.acknowledged(batch.end_offset)
        self.counts.sent += batch.end_offset - batch.first_offset
        self.counts.resent += batch.resent_count
        self.last_ok_ms = now_ms
        self._remedies.accepted()
        self._retry.succeeded()
        self._contradiction_count = 0
        self.error = None

    def _fail(self, batch: Outgoing, code: int, message: str | None, now_ms: int) -> None:
        """The first failure of a pipeline; what is behind it will fail for its sake."""
        what = codes.meaning(code)
        self.error = codes.explain(code, message)
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
            # What Kafka said it has, and what it takes, do not fit: once is normal, always is not.
            self._contradiction_count += 1
            if self._contradiction_count >= self._limits.contradiction_after:
                self._contradiction_count = 0
                self._renew("the upstream contradicts itself about what it has")
        if what is not Meaning.SPLIT or self._remedies.is_refused:
            self._back_off(now_ms)

    def _break(self) -> None:
        """Nothing more is sent until Kafka was asked (law 2)."""
        self._broken = True
        self.pipeline.forget()
        if not self.pipeline.in_flight:
            self._ask_again()

    def _ask_again(self) -> None:
        self._broken = False
        self._asking = True
        self._asked = False
        self.pipeline.forget()

    def _back_off(self, now_ms: int) -> None:
        limits = self._limits
        is_stuck = self._remedies.is_stuck
        max_ms = limits.stuck_backoff_max_ms if is_stuck else limits.backoff_max_ms
        self._retry.failed(now_ms, max_ms=max_ms)

    # -- going on

    def _renew(self, reason: str) -> None:
        """Our producer cannot go on in this partition: another one begins at the cursor."""
        log.warning("bridge.renew-producer partition=%s reason=%s", self.label, reason)
        self.error = reason
        self.identity = None
        self.counts.renewed += 1
        self.known.drop_anchor()

    def _go_on_from_nothing(self, wall_ms: int) -> None:
        """Kafka knows nothing of our producer (law 4)."""
        known = self.known
        is_told = self.identity is not None and self.identity.is_idempotent
        end = known.may_be_there(
            wall_ms=wall_ms,
            never_reached_ms=self._limits.never_reached_ms,
            is_new=self.counts.renewed > 0 or not is_told,
        )
        if end > known.cursor:
            self.counts.forgotten += 1
            self._remedies.mark_until(end)
            span = (self.label, known.cursor, end)
            log.warning("bridge.forgotten partition=%s marked_from=%d marked_to=%d", *span)
        if known.cursor < self._start_offset:
            self._count_dropped(known.cursor, self._start_offset)
        self._go_on(known.cursor)

    def _go_on_after(self, sequence: int, standing: Standing) -> None:
        """Kafka's last record of ours has that sequence."""
        known = self.known
        offset = known.offset_behind(sequence)
        if offset < known.cursor:
            if offset < 0:
                self._renew(f"the upstream's last sequence {sequence} is none to go on from")
                return
            self.counts.upstream_lost += known.cursor - offset
            span = (self.label, offset, known.cursor)
            log.error("bridge.upstream-lost partition=%s from=%d to=%d", *span)
            known.lost(offset)
        known.appended(offset, standing)
        if offset < self._start_offset:
            self._skip(offset, self._start_offset, "retention removed what was not replicated")
            return
        self._go_on(offset)

    def _skip(self, offset: int, end: int, reason: str) -> None:
        """What is next is gone: a hole in the sequence, which only a new producer passes."""
        self._count_dropped(offset, end)
        self.pipeline.go_to(end)
        self._break()
        self._renew(reason)

    def _count_dropped(self, offset: int, end: int) -> None:
        self.counts.dropped += end - offset
        self.known.removed(end)
        log.error("bridge.gap partition=%s from=%d to=%d", self.label, offset, end)

    def _go_on(self, offset: int) -> None:
        self._asking = False
        self.pipeline.go_to(offset)
