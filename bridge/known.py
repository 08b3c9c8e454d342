"""What is known to be upstream of one partition, what may be, and how the one becomes the other.

Sans-I/O. The replicator asks it where the cursor is; everything that moves the cursor is here.

    cursor <= claim's end <= maybe sent end
    |-- replicated --|-- the leader has it --|-- perhaps sent, by this process or the one before --|
"""

from __future__ import annotations

from bridge.position import Attempt, Claim, Standing, offset_after


class Known:
    """`cursor`: everything below is replicated. It is durable only once its owner has saved it."""

    def __init__(
        self, *, start_offset: int, durable_end: int, cursor: int | None, attempt: Attempt | None
    ) -> None:
        self.cursor = start_offset if cursor is None else cursor
        self.is_confirmed = cursor is not None
        """Something of ours was replicated in this upstream, now or in an earlier life."""
        self.is_anchored = False
        """So it was under this identity, and nothing since said that Kafka may have forgotten it.
        """
        self.claim: Claim | None = None
        self.attempt = attempt
        # It never goes back: a request of before a break may still be in a broker's queue, and be
        # carried out.
        self.maybe_sent_end = self.cursor
        if attempt is not None:
            self.maybe_sent_end = max(self.cursor, min(attempt.until, durable_end))

    def may_send_to(self, end_offset: int, *, mark_until: int) -> bool:
        """Whether it is durable that records below `end_offset` may have been sent."""
        attempt = self.attempt
        if attempt is None or attempt.mark_until != mark_until:
            return False
        return end_offset <= attempt.until

    def next_attempt(self, until: int, *, mark_until: int, wall_ms: int) -> Attempt:
        """What must become durable before records below `until` are sent."""
        at_ms = wall_ms
        if self.attempt is not None and not self.is_confirmed:
            at_ms = self.attempt.at_ms
        return Attempt(until=until, at_ms=at_ms, mark_until=mark_until)

    def sent(self, end_offset: int) -> None:
        self.maybe_sent_end = max(self.maybe_sent_end, end_offset)

    def acknowledged(self, end_offset: int) -> None:
        """An acks=all answer to the oldest batch in flight: what is before it in that log, too."""
        self.cursor = end_offset
        self.is_confirmed = self.is_anchored = True
        if self.claim is not None and end_offset >= self.claim.end_offset:
            self.claim = None

    def drop_anchor(self) -> None:
        """Kafka may know nothing of our producer: another topic, another producer."""
        self.is_anchored = False
        self.claim = None

    def may_be_there(self, *, wall_ms: int, never_reached_ms: int, is_new: bool) -> int:
        """Kafka knows nothing of our producer: records from the cursor up to the offset given may
        be there all the same. The cursor itself when none can be.

        `is_new`: this producer has just been made, so that Kafka's not knowing it means nothing.
        """
        self.drop_anchor()
        attempt = self.attempt
        if attempt is None:
            return self.cursor
        is_young = 0 <= wall_ms - attempt.at_ms < never_reached_ms  # the clock may have gone back
        if is_young and not self.is_confirmed and not is_new:
            return self.cursor  # what was sent never arrived: no broker forgets so soon
        return self.maybe_sent_end

    def offset_behind(self, sequence: int) -> int:
        """Where to go on when Kafka's last record of ours has that sequence. Below the cursor: the
        upstream has lost what it had acknowledged; negative: no record here has it.

        Records beyond what may have been sent are none of Kafka's, whatever it says: a disk that
        went back in time gives their offsets again.
        """
        return offset_after(sequence, near=self.cursor, end=self.maybe_sent_end)

    def lost(self, offset: int) -> None:
        """The upstream ends at `offset`, below the cursor."""
        self.cursor = offset
        self.is_confirmed = self.is_anchored = False

    def removed(self, end_offset: int) -> None:
        """Records below `end_offset` are not in the log any more."""
        self.cursor = end_offset
        self.maybe_sent_end = max(self.maybe_sent_end, end_offset)

    def appended(self, offset: int, standing: Standing) -> None:
        """The leader has everything below `offset`; it counts once the watermark has passed it."""
        log_end = standing.log_end
        old = self.claim
        if old and (old.end_offset, old.leader_epoch) == (offset, standing.leader_epoch):
            log_end = min(log_end, old.log_end)
        self.claim = None
        self.maybe_sent_end = max(self.maybe_sent_end, offset)
        if offset == self.cursor and self.is_confirmed:
            self.is_anchored = True
        elif standing.high_watermark >= log_end:
            self.cursor = offset
            self.is_confirmed = self.is_anchored = True
        else:
            self.claim = Claim(
                end_offset=offset, leader_epoch=standing.leader_epoch, log_end=log_end
            )
