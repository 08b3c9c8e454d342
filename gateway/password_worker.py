"""Passwords are checked here: in a thread of their own, for a check takes its time by design.

Owns the thread, which is made when there is something to check, and the bound of what waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.worker import WorkerThread

_log = logging.getLogger(__name__)


class PasswordWorker:
    """A `gateway.passwords.Worker`. One thread: a board's other cores are the loop's and the
    disk's. `post` calls in the loop's thread: `loop.call_soon_threadsafe`."""

    def __init__(self, waiting_max: int, post: Callable[[Callable[[], None]], object]) -> None:
        self.waiting_max = waiting_max
        self._post = post
        self._waiting_count = 0
        self._thread: WorkerThread | None = None

    def run(self, work: Callable[[], bool], done: Callable[[bool], None]) -> bool:
        if self._waiting_count >= self.waiting_max:
            return False
        if self._thread is None:
            # Ends with the process: at a stop nobody waits for a check.
            self._thread = WorkerThread("sluicegate-passwords", self._post)

        def succeeded(is_right: bool) -> None:
            self._waiting_count -= 1
            done(is_right)

        def failed(error: Exception) -> None:
            _log.error("passwords.check_failed cause=%r", error)
            succeeded(False)

        self._waiting_count += 1
        self._thread.submit(work, succeeded, failed)
        return True
