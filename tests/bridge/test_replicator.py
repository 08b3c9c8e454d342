"""The core, one law at a time. The numbers are those of replicator.py; KAFKA's answers by code."""

from __future__ import annotations

from random import Random

import pytest

from bridge.codes import Meaning
from bridge.limits import BridgeLimits
from bridge.position import (
    SEQUENCES,
    Attempt,
    Identity,
    Outgoing,
    ReadPlan,
    Restamp,
    Standing,
    State,
    offset_after,
)
from bridge.remedies import Remedies
from bridge.replicator import Replicator
from bridge.state import known_attempt

_MINE = Identity(producer_id=7, epoch=0)
_HOUR_MS = 3_600_000
TIMED_OUT, TOO_LARGE, NOT_LEADER, NO_REPLICAS, INVALID_TIMESTAMP = 7, 10, 6, 19, 32
OUT_OF_ORDER, FENCED, INVALID_RECORD = 45, 47, 87


class Driver:
    """A core with an identity, and a log of `end` records that are read ten a batch."""

    def __init__(
        self,
        *,
        end: int = 100,
        cursor: int | None = None,
        start: int = 0,
        attempt: Attempt | None = None,
    ) -> None:
        self.now_ms = 10_000_000
        self.end = end
        self.start = start
        self.core = Replicator(
            label="s-0",
            start_offset=start,
            durable_end=end,
            cursor=cursor,
            attempt=attempt,
            limits=BridgeLimits(),
            linger_ms=50,
            rng=Random(1),
        )
        self.core.identified(_MINE)
        self.look()

    def look(self) -> None:
        self.core.log_moved(start_offset=self.start, sealed_end=self.end, durable_end=self.end)

    def stands(
        self, sequence: int | None, *, log_end: int = 0, watermark: int = 0, epoch: int = 0
    ) -> None:
        assert self.core.wants_standing(self.now_ms)
        self.core.asked()
        standing = Standing(
            epoch=epoch,
            sequence=sequence,
            leader_epoch=1,
            log_end=log_end,
            high_watermark=watermark,
        )
        self.core.stands(standing, self.now_ms, wall_ms=self.now_ms)

    def plan(self) -> ReadPlan:
        plan = self.core.wants_read(self.now_ms, bytes_free=1 << 30)
        assert plan is not None
        return plan

    def load(self, batch_count: int = 10) -> None:
        plan = self.plan()
        batches = [
            Outgoing(
                first_offset=first,
                end_offset=min(first + 10, self.end),
                size_bytes=1000,
                pieces=(),
                resent_count=max(0, min(plan.shape.mark_until, first + 10) - first),
            )
            for first in range(plan.offset, self.end, 10)
        ]
        self.core.loaded(plan, batches[:batch_count])

    def allow(self) -> None:
        if (attempt := self.core.wants_attempt(wall_ms=self.now_ms)) is not None:
            self.core.attempt_durable(attempt)

    def send(self) -> list[int]:
        """The first offsets of all that may be sent now."""
        self.allow()
        sent = []
        while self.core.next_batch(self.now_ms) is not None:
            sent.append(self.core.sent().first_offset)
        return sent

    def answer(self, *codes: int) -> None:
        for code in codes:
            self.core.produced(code, None, self.now_ms)

    def flowing(self) -> None:
        """From nothing upstream to five batches in flight, the first one answered."""
        self.stands(None)
        self.load()
        assert self.send() == [0]
        self.answer(0)
        assert self.send() == [10, 20, 30, 40, 50]

    def wait(self) -> None:
        self.now_ms += 60_000


def test_one_batch_goes_alone_until_it_is_known_to_be_replicated_then_five() -> None:
    Driver().flowing()


def test_one_batch_goes_alone_after_a_silence_in_which_kafka_may_have_forgotten() -> None:
    driver = Driver()
    driver.flowing()
    driver.answer(0, 0, 0, 0, 0)
    driver.now_ms += BridgeLimits().idle_alone_ms + 1
    assert driver.send() == [60]
    driver.answer(0)
    assert driver.send() == [70, 80, 90]


def test_nothing_is_sent_before_it_is_durable_that_it_may_have_been() -> None:
    driver = Driver()
    driver.stands(None)
    driver.load()
    assert driver.core.next_batch(driver.now_ms) is None
    attempt = driver.core.wants_attempt(wall_ms=driver.now_ms)
    assert attempt == Attempt(until=100 + BridgeLimits().attempt_ahead, at_ms=driver.now_ms)
    driver.core.attempt_durable(attempt)
    assert driver.core.next_batch(driver.now_ms) is not None


def test_a_success_behind_a_failure_does_not_move_the_cursor() -> None:
    driver = Driver()
    driver.flowing()
    driver.answer(TIMED_OUT, 0, 0)
    assert driver.core.cursor == 10
    assert not driver.core.wants_standing(driver.now_ms), "two are still in flight"
    driver.answer(0, 0)
    driver.wait()
    driver.stands(59, log_end=60, watermark=60)
    assert driver.core.cursor == 60


def test_what_only_the_leader_has_is_not_sent_again_and_does_not_count() -> None:
    driver = Driver()
    driver.flowing()
    driver.core.lost()
    driver.stands(39, log_end=40, watermark=30)
    assert (driver.core.cursor, driver.core.pipeline.next_offset) == (10, 40)
    driver.load()
    assert driver.send() == [40, 50, 60, 70, 80]
    driver.answer(0)
    assert driver.core.cursor == 50


def test_after_a_restart_nothing_goes_past_what_only_the_leader_has() -> None:
    driver = Driver(attempt=Attempt(until=1000, at_ms=0))
    driver.stands(39, log_end=40, watermark=30)
    assert driver.core.wants_read(driver.now_ms, bytes_free=1 << 30) is None
    driver.wait()
    driver.stands(39, log_end=45, watermark=40)
    assert driver.core.cursor == 40, "the log end of the first answer is the one that counts"


def test_a_batch_that_vanished_with_its_leader_is_sent_again_from_what_the_new_one_says() -> None:
    driver = Driver()
    driver.flowing()
    driver.core.lost()
    driver.stands(39, log_end=40, watermark=10)
    driver.load()
    driver.send()
    driver.answer(OUT_OF_ORDER, OUT_OF_ORDER, OUT_OF_ORDER, OUT_OF_ORDER, OUT_OF_ORDER)
    driver.wait()
    driver.stands(9, log_end=10, watermark=10)
    assert (driver.core.cursor, driver.core.pipeline.next_offset) == (10, 10)
    assert driver.core.counts.resent == 0


def test_a_standing_that_is_overtaken_by_a_break_is_ignored() -> None:
    driver = Driver()
    driver.core.asked()
    driver.core.lost()
    late = Standing(epoch=0, sequence=99, leader_epoch=1, log_end=100, high_watermark=100)
    driver.core.stands(late, driver.now_ms, wall_ms=driver.now_ms)
    assert driver.core.cursor == 0
    assert driver.core.wants_standing(driver.now_ms)


def test_what_kafka_forgot_is_sent_again_with_marks_that_are_durable_first() -> None:
    driver = Driver(cursor=20, attempt=Attempt(until=50, at_ms=0))
    driver.stands(None)
    driver.load()
    assert driver.core.next_batch(driver.now_ms) is None
    attempt = driver.core.wants_attempt(wall_ms=driver.now_ms)
    assert attempt is not None
    assert attempt.mark_until == 50
    driver.core.attempt_durable(attempt)
    assert driver.send() == [20]
    driver.answer(0)
    assert driver.core.counts.forgotten == 1
    assert driver.core.counts.resent == 10


@pytest.mark.parametrize(("age_ms", "marked"), [(_HOUR_MS // 2, 0), (2 * _HOUR_MS, 50)])
def test_a_first_attempt_of_just_now_never_arrived_but_an_old_one_may_have(
    age_ms: int, marked: int
) -> None:
    driver = Driver(attempt=Attempt(until=50, at_ms=10_000_000 - age_ms))
    driver.stands(None)
    assert driver.plan().shape.mark_until == marked


def test_the_upstream_that_lost_what_it_acknowledged_is_sent_it_again() -> None:
    driver = Driver(cursor=60, attempt=Attempt(until=1000, at_ms=0))
    driver.stands(39, log_end=40, watermark=40)
    assert (driver.core.cursor, driver.core.counts.upstream_lost) == (40, 20)
    assert driver.plan().offset == 40


def test_a_hole_that_retention_made_is_passed_with_a_new_producer() -> None:
    driver = Driver(cursor=20, attempt=Attempt(until=1000, at_ms=0))
    driver.start = 50
    driver.look()
    driver.stands(29, log_end=30, watermark=30)
    assert driver.core.counts.dropped == 20
    assert driver.core.wants_identity(driver.now_ms)
    driver.core.identified(Identity(producer_id=8, epoch=0))
    driver.stands(None)
    assert driver.plan().offset == 50


@pytest.mark.parametrize("how", ["epoch", "fenced"])
def test_a_producer_id_that_somebody_else_uses_is_given_up(how: str) -> None:
    driver = Driver()
    if how == "epoch":
        driver.stands(5, epoch=1)
    else:
        driver.flowing()
        driver.answer(FENCED, FENCED, FENCED, FENCED, FENCED)
        driver.wait()
    assert driver.core.state is State.IDENTIFYING
    assert driver.core.wants_identity(driver.now_ms)
    assert driver.core.counts.renewed == 1


def test_endless_contradiction_ends_in_a_new_producer_not_in_an_endless_loop() -> None:
    driver = Driver()
    driver.stands(None)
    for _ in range(BridgeLimits().contradiction_after):
        driver.load()
        driver.send()
        driver.answer(OUT_OF_ORDER)
        driver.wait()
        if driver.core.identity is not None:
            driver.stands(None)
    assert driver.core.counts.renewed == 1


def test_too_large_is_cut_at_once_and_a_single_record_that_is_is_called_stuck() -> None:
    driver = Driver()
    driver.stands(None)
    driver.load()
    driver.send()
    driver.answer(TOO_LARGE)
    driver.stands(None)
    assert driver.plan().shape.batch_bytes_max == 500
    single = Driver(end=1)
    for _ in range(BridgeLimits().stuck_after):
        assert single.core.state is not State.STUCK
        single.stands(None)
        single.load()
        single.send()
        single.answer(TOO_LARGE)
        single.wait()
    assert single.core.state is State.STUCK
    assert "max.message.bytes" in str(single.core.error)
    assert single.core.wants_standing(single.now_ms), "it is tried again, for ever"


def test_a_refused_timestamp_becomes_now_and_then_none() -> None:
    driver = Driver()
    for expected in (Restamp.NO, Restamp.NOW, Restamp.NONE):
        driver.stands(None)
        plan = driver.plan()
        assert plan.shape.restamp is expected
        driver.core.loaded(plan, [Outgoing(first_offset=0, end_offset=10, size_bytes=9, pieces=())])
        driver.send()
        driver.answer(INVALID_TIMESTAMP)
        driver.wait()


def test_a_refused_batch_is_framed_anew_before_it_is_called_stuck() -> None:
    driver = Driver()
    reframed = []
    for _ in range(BridgeLimits().stuck_after):
        driver.stands(None)
        reframed.append(driver.plan().shape.reframe_until)
        driver.core.lost()
        driver.stands(None)
        driver.load()
        driver.send()
        driver.answer(INVALID_RECORD)
        driver.wait()
    assert reframed == [0, 0, 10, 10, 10]
    assert driver.core.state is State.STUCK


def test_waiting_for_the_upstream_is_not_called_stuck_and_is_explained() -> None:
    driver = Driver()
    driver.stands(None)
    driver.load()
    driver.send()
    driver.answer(NO_REPLICAS)
    assert driver.core.state is State.WAITING
    assert "min.insync.replicas" in str(driver.core.error)
    assert driver.core.due_in_ms(driver.now_ms) is not None


@pytest.mark.parametrize(
    ("sequence", "near", "end", "expected"),
    [
        (9, 5, 100, 10),
        (4, 5, 100, 5),
        (2, 5, 100, 3),
        (SEQUENCES - 1, SEQUENCES - 3, SEQUENCES + 10, SEQUENCES),
        (4, SEQUENCES - 3, SEQUENCES + 10, SEQUENCES + 5),
        (SEQUENCES - 5, SEQUENCES + 2, SEQUENCES + 10, SEQUENCES - 4),
    ],
)
def test_a_sequence_names_the_offset_behind_it(
    sequence: int, near: int, end: int, expected: int
) -> None:
    assert offset_after(sequence, near=near, end=end) == expected


def test_records_given_again_after_a_disk_went_back_are_not_taken_for_those_kafka_has() -> None:
    """Kafka has more of ours than this log ever said it may have sent: none of it is this log's."""
    driver = Driver(end=150, cursor=100, attempt=Attempt(until=262_144, at_ms=0))
    driver.end = 5000
    driver.look()
    driver.stands(1999, log_end=2000, watermark=2000)
    assert driver.core.cursor == 100
    assert driver.core.identity is None
    assert driver.core.counts.renewed == 1


def test_what_the_upstream_lost_is_sent_again_from_where_the_log_still_begins() -> None:
    driver = Driver(start=500, end=1000, cursor=1000)
    driver.stands(399, log_end=400, watermark=400)
    counts = driver.core.counts
    assert (counts.upstream_lost, counts.dropped) == (600, 100)
    assert driver.core.cursor == 500
    assert driver.core.identity is None, "a hole in the sequence is passed by a new producer"


def test_what_is_in_flight_to_the_old_leader_outlives_the_new_ones_connection() -> None:
    driver = Driver()
    driver.flowing()
    driver.core.moved()
    driver.core.moved()
    assert len(driver.core.pipeline.in_flight) == 5
    driver.answer(0, 0, 0, 0, 0)
    assert driver.core.wants_standing(driver.now_ms + 60_000)


def test_an_attempt_of_the_future_is_not_young() -> None:
    """The board had no clock when it started: what may have been sent is marked all the same."""
    driver = Driver(cursor=None, attempt=Attempt(until=50, at_ms=10_000_000 + _HOUR_MS))
    driver.stands(None)
    assert driver.plan().shape.mark_until == 50


def test_a_hole_behind_an_open_claim_is_not_passed_before_the_claim_counts() -> None:
    """The cursor would jump over what only the leader has (law 1)."""
    driver = Driver()
    driver.flowing()
    driver.core.lost()
    driver.stands(39, log_end=40, watermark=30)
    driver.core.load_failed(driver.plan(), "removed", driver.now_ms, hole_end=60)
    assert (driver.core.cursor, driver.core.counts.dropped) == (10, 0)
    driver.wait()
    driver.stands(39, log_end=40, watermark=40)
    assert driver.core.cursor == 40
    driver.core.load_failed(driver.plan(), "removed", driver.now_ms, hole_end=60)
    assert (driver.core.cursor, driver.core.counts.dropped) == (60, 20)


def test_a_batch_size_that_was_lowered_grows_again_slowly() -> None:
    """A topic's max.message.bytes may have been raised; it was low for the process's life."""
    limits = BridgeLimits(split_recover_after=3)
    remedies = Remedies(limits)
    batch = Outgoing(first_offset=0, end_offset=10, size_bytes=500 * 1024, pieces=())
    remedies.refused(Meaning.SPLIT, batch)
    sizes = []
    for _ in range(7):
        remedies.accepted()
        sizes.append(remedies.shape().batch_bytes_max // 1024)
    assert sizes == [250, 250, 500, 500, 500, 960, 960]


def test_where_the_log_has_lost_its_state_all_that_may_be_upstream_is_marked() -> None:
    attempt = known_attempt(None, (60).to_bytes(8, "big"))
    driver = Driver(attempt=attempt)
    driver.stands(None)
    assert driver.plan().shape.mark_until == 60
    assert driver.core.counts.forgotten == 1


def test_where_the_log_has_lost_its_state_kafka_is_still_believed() -> None:
    """An older checkpoint: what it says may have been sent is less than what was."""
    attempt = known_attempt(Attempt(until=20, at_ms=5), (60).to_bytes(8, "big"))
    driver = Driver(cursor=10, attempt=attempt)
    driver.stands(59, log_end=60, watermark=60)
    assert (driver.core.cursor, driver.core.counts.renewed) == (60, 0)


def test_an_attempt_beyond_what_was_lost_stays_as_it_is() -> None:
    kept = Attempt(until=100, at_ms=5)
    assert known_attempt(kept, (60).to_bytes(8, "big")) is kept
    assert known_attempt(kept, None) is kept
    assert known_attempt(None, None) is None
