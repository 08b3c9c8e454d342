"""Time as a cheap device has it: wrong by an offset, drifting, set anew when power comes back.

Owns no clock: the machine's time is an argument.
"""

from random import Random


class DriftingClock:
    """A quartz of so many ppm; the offset is drawn anew at each boot."""

    def __init__(self, *, drift_ppm_max: int, offset_ms_max: int, rng: Random, now_ms: int) -> None:
        self._rate = 1 + rng.uniform(-drift_ppm_max, drift_ppm_max) / 1e6
        self._offset_ms_max = offset_ms_max
        self._rng = rng
        self.boot(now_ms)

    def boot(self, now_ms: int) -> None:
        """Power is back: time comes from a rough source."""
        self._boot_ms = now_ms
        self._offset_ms = self._rng.uniform(-self._offset_ms_max, self._offset_ms_max)

    def read_ms(self, now_ms: int) -> int:
        """What the device believes the time is."""
        return int(self._boot_ms + self._offset_ms + (now_ms - self._boot_ms) * self._rate)


class BackOff:
    """Doubling waits with full jitter, so that a fleet does not come back all at once."""

    def __init__(self, *, min_ms: int, max_ms: int, rng: Random) -> None:
        self._min_ms = min_ms
        self._max_ms = max_ms
        self._rng = rng
        self._ceiling_ms = min_ms

    def reset(self) -> None:
        """The connection worked."""
        self._ceiling_ms = self._min_ms

    def next_ms(self) -> float:
        """How long to wait before the next try."""
        wait_ms = self._rng.uniform(self._min_ms / 2, self._ceiling_ms)
        self._ceiling_ms = min(self._ceiling_ms * 2, self._max_ms)
        return wait_ms
