"""How long to wait before the next attempt. No clock: the caller says what time it is."""

from __future__ import annotations

from random import Random


def backoff_ms(attempt: int, *, min_ms: int, max_ms: int, rng: Random) -> int:
    """Doubles from `min_ms` with each attempt (counted from 0) up to `max_ms`; half of it is
    random, so that a thousand gateways behind one returned link do not come in step.
    """
    full = min(max_ms, min_ms << min(attempt, 20))
    return full // 2 + rng.randrange(full // 2 + 1)


class Backoff:
    """Attempts in a row that failed, and when the next one is due."""

    def __init__(self, *, min_ms: int, rng: Random) -> None:
        self._min_ms = min_ms
        self._rng = rng
        self.failure_count = 0
        self._due_ms = 0

    def failed(self, now_ms: int, *, max_ms: int) -> int:
        """One more; gives the wait in ms."""
        wait_ms = backoff_ms(self.failure_count, min_ms=self._min_ms, max_ms=max_ms, rng=self._rng)
        self._due_ms = now_ms + wait_ms
        self.failure_count += 1
        return wait_ms

    def succeeded(self) -> None:
        self.failure_count = 0
        self._due_ms = 0

    def left_ms(self, now_ms: int) -> int:
        """Until the next attempt is due; 0 or less when it is."""
        return self._due_ms - now_ms
