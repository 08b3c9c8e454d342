"""How long to wait before the next attempt. No clock: the caller counts its attempts."""

from __future__ import annotations

from random import Random


def backoff_ms(attempt: int, *, min_ms: int, max_ms: int, rng: Random) -> int:
    """Doubles from `min_ms` with each attempt (counted from 0) up to `max_ms`; half of it is
    random, so that a thousand gateways behind one returned link do not come in step.
    """
    full = min(max_ms, min_ms << min(attempt, 20))
    return full // 2 + rng.randrange(full // 2 + 1)
