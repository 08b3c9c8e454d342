"""The group commit: the shell that takes rounds to the disk, one fdatasync at a time.

Owns one thread, which does nothing but write and sync frames. All else happens in the event loop's
thread.

A round collects whatever is appended in one turn of the loop. It is closed when the loop has dealt
with everything that was ready, and no write is under way; or at once when it is as big as a frame
may be. Frames closed while the thread is busy wait and go out together under the next fdatasync:
the slower the disk, the more messages share one.

Participants ride along: what they owe (acknowledgements, deliveries) is taken with the round and
given back to them when it is durable, in order, or told that it never will be.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from log.errors import LogFailed
from log.guard import call_guarded
from log.store import Frame, Log

logger = logging.getLogger(__name__)


class Participant(Protocol):
    """Who has something to do when a round becomes durable."""

    def cut(self) -> object | None:
        """The round is closed: give what belongs to it, None if nothing does."""

    def durable(self, token: object) -> None:
        """The round that `token` was taken with is on stable storage."""

    def failed(self, error: LogFailed) -> None:
        """The journal failed: nothing that is not durable yet ever will be."""


class _Round:
    """A closed round and what rides with it. `frame` is None where it had nothing to store."""

    __slots__ = ("frame", "tokens", "waiters")

    def __init__(self, frame: Frame | None, tokens: list[tuple[Participant, object]]) -> None:
        self.frame = frame
        self.tokens = tokens
        self.waiters: list[asyncio.Future[None]] = []


class Committer:
    """One per log. Made in the loop's thread; `close` ends its thread."""

    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop
        self._participants: list[Participant] = []
        self._closed: deque[_Round] = deque()
        self._writing: list[_Round] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._preparers: list[Callable[[], None]] = []
        self._relief: list[Callable[[], None]] = []
        self._scheduled = False
        self._later: asyncio.TimerHandle | None = None
        self._asked_while_writing = False
        self.starved = False
        """The journal has no room for the current round: `room_made` when there is some."""
        self.congested = False
        """Too much waits for the disk or for sealing: do not read from publishers until
        `on_relief`.
        """
        self.wants_room: Callable[[], None] = lambda: None
        """Called when the journal has no room for the next frame: the housekeeper sets it."""
        self._jobs: queue.SimpleQueue[list[_Round] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def add_participant(self, participant: Participant) -> None:
        self._participants.append(participant)

    def remove_participant(self, participant: Participant) -> None:
        """It is asked no more; what was taken with it before is still told to it."""
        self._participants.remove(participant)

    def add_preparer(self, callback: Callable[[], None]) -> None:
        """Called before a round is closed: who gathers records appends them now."""
        self._preparers.append(callback)

    def request(self) -> None:
        """The current round should be made durable soon. Cheap: call it after every append."""
        if not self._scheduled:
            self._scheduled = True
            if self._later is not None:
                self._later.cancel()
                self._later = None
            self._loop.call_soon(self._turn)
        self._close_if_full()

    def request_later(self) -> None:
        """As `request`, for records that nobody waits for: within `unawaited_ms`, in one frame with
        all that came till then.
        """
        if not self._scheduled and self._later is None:
            delay_s = self._log.limits.unawaited_ms / 1000
            self._later = self._loop.call_later(delay_s, self.request)
        self._close_if_full()

    def _close_if_full(self) -> None:
        if self._log.round_bytes + self._log.state.round_bytes >= self._log.frame_bytes_max:
            self._close_round()
            self._update_congestion()

    async def flush(self) -> None:
        """Returns when everything appended or put so far is durable. LogFailed."""
        if self._log.failure:
            raise self._log.failure
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        self.request()
        await waiter

    def on_relief(self, callback: Callable[[], None]) -> None:
        """Calls back once, when `congested` is over."""
        self._relief.append(callback)

    def room_made(self) -> None:
        """The housekeeper has freed journal space or memory."""
        if self.starved:
            # At once: were publishers read before the round has its room, it would only grow.
            self.starved = False
            self._close_round()
            if not self._writing:
                self._start()
        self._update_congestion()

    async def close(self) -> None:
        """Ends the thread. `flush` first; rounds not durable by now are not saved."""
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    # -- in the loop

    def _turn(self) -> None:
        self._scheduled = False
        if self._writing:
            self._asked_while_writing = True
        else:
            self._close_round()
            self._start()
        self._update_congestion()

    def _close_round(self) -> None:
        """Takes the current round, if the journal has room for it."""
        if self.starved or self._log.failure:
            return
        for prepare in self._preparers:
            call_guarded(prepare)
        try:
            frame = self._log.cut()
        except LogFailed as failure:
            self._abandon(failure)
            return
        if frame is None and not self._log.round_empty:
            self.starved = True
            self.wants_room()
            return
        tokens = []
        for participant in self._participants:
            token = call_guarded(participant.cut)
            if token is not None:
                tokens.append((participant, token))
        if frame is None and not tokens and not self._waiters:
            return
        closed = _Round(frame, tokens)
        closed.waiters, self._waiters = self._waiters, []
        self._closed.append(closed)

    def _start(self) -> None:
        """Gives what waits to the thread. Rounds with nothing to store are done where nothing is
        before them.
        """
        if not self._closed:
            return
        rounds = list(self._closed)
        self._closed.clear()
        if any(closed.frame for closed in rounds):
            self._writing = rounds
            self._jobs.put(rounds)
        else:
            self._deliver(rounds)

    def _written(self) -> None:
        if self._log.failure:
            return  # everybody was told so while this write was under way
        rounds, self._writing = self._writing, []
        self._log.durable([closed.frame for closed in rounds if closed.frame])
        self._deliver(rounds)
        if self._asked_while_writing or self._closed or not self._log.round_empty or self._waiters:
            self._asked_while_writing = False
            self.request()
        self._update_congestion()

    def _deliver(self, rounds: Sequence[_Round]) -> None:
        for closed in rounds:
            for participant, token in closed.tokens:
                call_guarded(participant.durable, token)
            for waiter in closed.waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _failed(self, error: Exception) -> None:
        self._abandon(self._log.fail(error))

    def _abandon(self, failure: LogFailed) -> None:
        """Nothing that is not durable yet ever will be: tells all who wait for it."""
        logger.critical("journal.failed error=%r", str(failure))
        waiters = self._waiters
        for closed in (*self._writing, *self._closed):
            waiters += closed.waiters
        self._writing, self._waiters = [], []
        self._closed.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(failure)
        for participant in self._participants:
            call_guarded(participant.failed, failure)

    def _update_congestion(self) -> None:
        log = self._log
        limits = log.limits
        self.congested = (
            self.starved
            or log.round_bytes + log.state.round_bytes + log.in_flight_bytes
            > limits.pending_bytes_max
            or (log.tail_bytes > limits.tail_bytes_max and not log.stalled)
        )
        if not self.congested and self._relief:
            callbacks, self._relief = self._relief, []
            for callback in callbacks:
                call_guarded(callback)

    # -- in the thread

    def _run(self) -> None:
        while (rounds := self._jobs.get()) is not None:
            try:
                self._log.write([closed.frame for closed in rounds if closed.frame])
            except Exception as error:
                # Whatever it was, nothing may be acknowledged, and nobody may wait for ever.
                self._loop.call_soon_threadsafe(self._failed, error)
                return
            self._loop.call_soon_threadsafe(self._written)
