"""How much of the loop's time reading from the log may take.

Owns the wait between two turns of catch-up. Where publishers are at work, a turn is followed by as
long a pause as it took: a thousand subscribers that come back may slow the devices down to half,
not more. Where nobody publishes, turns follow each other at once.

Processor time counts: what another process took of a turn is no work of ours, and pauses of that
length would keep what is sent again waiting for tens of ms on a busy machine.
"""

from collections.abc import Callable

_DEBT_S_MIN = 0.002
"""Shorter pauses are saved up: the loop's timers have a resolution of 1 ms."""


class Pace:
    """`call_later(delay_s, turn)` must call it in a later turn of the loop, not at once."""

    def __init__(self) -> None:
        self.clock_s: Callable[[], float] = lambda: 0.0
        """Of microseconds, of processor time: a turn takes a few hundred."""
        self.call_later: Callable[[float, Callable[[], None]], object] = lambda delay_s, turn: None
        self._began_s: float | None = None
        self._debt_s = 0.0
        self._round_came = False

    def round_came(self) -> None:
        """Publishers are at work."""
        self._round_came = True

    def turn_begins(self) -> None:
        self._began_s = self.clock_s()

    def next(self, turn: Callable[[], None]) -> None:
        """Has `turn` called when it may; after a turn, which this ends, or for the first one."""
        if self._began_s is not None and self._round_came:
            self._debt_s += self.clock_s() - self._began_s
        self._began_s = None
        self._round_came = False
        delay_s = self._debt_s if self._debt_s >= _DEBT_S_MIN else 0.0
        if delay_s:
            self._debt_s = 0.0
        self.call_later(delay_s, turn)
