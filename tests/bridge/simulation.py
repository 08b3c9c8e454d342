"""One gateway and a modelled leader, with all that can go wrong between them, by a seed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random

from bridge.limits import BridgeLimits
from bridge.position import Attempt, Identity, Outgoing, ReadPlan, Standing
from bridge.replicator import Replicator
from tests.bridge.model import NOT_LEADER, TIMED_OUT, Batch, ModelLeader, Pending


@dataclass(slots=True)
class Durable:
    """What survives a SIGKILL of the gateway."""

    cursor: int | None = None
    attempt: Attempt | None = None
    identity: Identity | None = None
    end: int = 0


class Simulation:
    """`step` does one random thing, `heal` makes all well and runs to the end, `check` judges."""

    def __init__(
        self,
        seed: int,
        *,
        first_offset: int = 0,
        can_forget: bool = False,
        can_remove: bool = False,
        records_max: int = 10**6,
    ) -> None:
        self.rng = Random(seed)
        self.first_offset = first_offset
        self.start_offset = first_offset
        self.can_remove = can_remove
        self.gone: set[int] = set()
        """Offsets that retention took while they were not replicated."""
        self.can_forget = can_forget
        self.leader = ModelLeader(records_max=records_max)
        self.durable = Durable(end=first_offset)
        self.limits = BridgeLimits(attempt_ahead=20, never_reached_ms=10_000_000)
        self.now_ms = 1_000_000
        self.next_producer_id = 1
        self.sent: deque[Pending] = deque()
        self.reading: ReadPlan | None = None
        self.standing: Standing | None = None
        self.events: list[str] = []
        self.core = self._new_core()

    def _new_core(self) -> Replicator:
        return Replicator(
            label="s-0",
            start_offset=self.start_offset,
            durable_end=self.durable.end,
            cursor=self.durable.cursor,
            attempt=self.durable.attempt,
            limits=self.limits,
            linger_ms=5,
            rng=Random(self.rng.random()),
        )

    # -- what the shell does

    def turn(self) -> None:
        core, rng = self.core, self.rng
        self.now_ms += rng.choice((0, 1, 10, 100, 3000))
        core.log_moved(
            start_offset=self.start_offset,
            sealed_end=self.start_offset,
            durable_end=self.durable.end,
        )
        if core.wants_identity(self.now_ms):
            if core.counts.renewed or self.durable.identity is None:
                self.durable.identity = Identity(producer_id=self.next_producer_id, epoch=0)
                self.next_producer_id += 1
            core.identified(self.durable.identity)
        if core.wants_standing(self.now_ms):
            core.asked()
            assert core.identity is not None
            self.standing = self.leader.standing(core.identity.producer_id)
        if self.standing is not None and rng.random() < 0.6:
            core.stands(self.standing, self.now_ms, wall_ms=self.now_ms)
            self.standing = None
        if (attempt := core.wants_attempt(wall_ms=self.now_ms)) is not None:
            self.durable.attempt = attempt
            core.attempt_durable(attempt)
        if (plan := core.wants_read(self.now_ms, bytes_free=10**6)) is not None:
            self.reading = plan
        if self.reading is not None and rng.random() < 0.8:
            self._read(self.reading)
            self.reading = None
        while rng.random() < 0.7 and core.next_batch(self.now_ms) is not None:
            batch = core.sent()
            assert core.identity is not None
            self.sent.append(self.leader.receive(Batch.of(batch, core.identity.producer_id)))
        assert len(self.sent) <= self.limits.in_flight_max
        self._save()

    def _read(self, plan: ReadPlan) -> None:
        if plan.offset < self.start_offset:
            self.core.load_failed(plan, "removed", self.now_ms, hole_end=self.start_offset)
        else:
            self.core.loaded(plan, self._cut(plan))

    def _save(self) -> None:
        if self.core.known.is_confirmed:
            replicated = self.leader.replicated_offsets()
            missing = set(range(self.first_offset, self.core.cursor)) - replicated - self.gone
            assert not missing, f"the cursor passed what is not replicated: {sorted(missing)[:5]}"
            if self.rng.random() < 0.5:
                self.durable.cursor = self.core.cursor

    def _cut(self, plan: ReadPlan) -> list[Outgoing]:
        """The records from the plan's offset on, cut by chance; size in bytes is count here."""
        batches: list[Outgoing] = []
        offset = plan.offset
        while offset < self.durable.end and len(batches) < 4:
            count = min(
                self.rng.randint(1, 6), plan.shape.batch_bytes_max, self.durable.end - offset
            )
            marked = min(max(0, plan.shape.mark_until - offset), count)
            batches.append(
                Outgoing(
                    first_offset=offset,
                    end_offset=offset + count,
                    size_bytes=count,
                    pieces=(),
                    resent_count=marked,
                )
            )
            offset += count
        return batches

    # -- what the world does

    def something(self, *choices: object) -> None:
        chosen = self.rng.choice(choices)
        self.events.append(chosen.__name__)  # type: ignore[attr-defined]
        chosen()  # type: ignore[operator]

    def step(self) -> None:
        often = (self.turn, self.turn, self.grow, self.leader_does, self.leader_does, self.answer)
        rare = [
            self.lose_connection,
            self.fail_over,
            self.flap,
            self.kill_gateway,
            self.refuse,
            self.time_out,
        ]
        if self.can_forget:
            rare.append(self.forget)
        if self.can_remove:
            rare.append(self.remove)
        self.something(*(often if self.rng.random() < 0.93 else rare))

    def grow(self) -> None:
        self.durable.end += self.rng.randint(0, 12)

    def leader_does(self) -> None:
        if self.rng.random() < 0.5:
            self.leader.process()
        else:
            self.leader.replicate(self.rng.randint(0, 3))

    def answer(self) -> None:
        """The oldest request's answer arrives, if there is one yet."""
        if self.sent and (code := self.leader.answer_of(self.sent[0])) is not None:
            self.sent.popleft()
            self.core.produced(code, None, self.now_ms)

    def time_out(self) -> None:
        """Appended, but not replicated in time: 7."""
        if self.sent and self.sent[0].answer == 0:
            self.sent.popleft()
            self.core.produced(TIMED_OUT, None, self.now_ms)

    def refuse(self) -> None:
        """The oldest request is refused without being carried out."""
        if self.sent and self.sent[0].answer is None and self.sent[0] in self.leader.queue:
            self.leader.queue.remove(self.sent[0])
            self.sent.popleft()
            self.core.produced(NOT_LEADER, None, self.now_ms)

    def lose_connection(self) -> None:
        """What is in the leader's queue may be carried out later, or some of its end never came."""
        arrived = self.rng.randint(0, len(self.leader.queue))
        while len(self.leader.queue) > arrived:
            self.leader.queue.pop()
        self._disconnected()

    def _disconnected(self) -> None:
        self.sent.clear()
        self.standing = None
        self.core.lost()

    def fail_over(self) -> None:
        self.leader.fail_over()
        self._disconnected()

    def flap(self) -> None:
        """The broker loses its lead, truncates, and leads again; no connection breaks."""
        self.leader.fail_over()
        for pending in self.sent:
            pending.answer, pending.waits_for = NOT_LEADER, None

    def kill_gateway(self) -> None:
        self.lose_connection()
        self.reading = None
        self.core = self._new_core()

    def forget(self) -> None:
        """The broker expires a producer; only an idle one, so nothing is on the way."""
        if not self.sent and not self.leader.queue and self.core.identity is not None:
            self.leader.expire(self.core.identity.producer_id)
            self.now_ms += 100_000_000
            self._disconnected()

    def remove(self) -> None:
        """Retention that does not keep what is not replicated."""
        count = self.rng.randint(0, self.durable.end - self.start_offset)
        end = self.start_offset + count // 2
        replicated = self.leader.replicated_offsets()
        self.gone |= set(range(self.start_offset, end)) - replicated
        self.start_offset = end

    # -- the end

    def heal(self) -> None:
        for _ in range(5000):
            self.turn()
            self.leader.process()
            self.leader.replicate(10)
            self.answer()
            if self.core.cursor == self.durable.end:
                return
        raise AssertionError(
            f"not finished: cursor {self.core.cursor} of {self.durable.end},"
            f" {self.core.state}, {self.core.error}, last {self.events[-20:]}"
        )

    def check(self) -> None:
        """All there, in order, and what is there twice is marked."""
        seen: set[int] = set()
        highest = self.first_offset - 1
        for entry in self.leader.entries():
            if entry.offset in seen:
                assert entry.marked, f"offset {entry.offset} is upstream twice without a mark"
            else:
                passed = set(range(highest + 1, entry.offset)) - self.gone
                assert entry.offset > highest and not passed, f"{entry.offset} after {highest}"
                highest = entry.offset
            seen.add(entry.offset)
        missing = set(range(highest + 1, self.durable.end)) - self.gone
        assert not missing, f"{highest + 1} of {self.durable.end} upstream"
        if not (self.can_forget or self.can_remove):
            assert self.core.counts.resent == 0
