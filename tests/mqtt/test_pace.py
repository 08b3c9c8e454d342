"""Catch-up leaves publishers their share of the loop's time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.mqtt.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("publishing", "asked_s"), [(True, 0.050), (False, 0.0)])
def test_a_turn_is_followed_by_as_long_a_pause_where_publishers_are_at_work(
    publishing: bool, asked_s: float
) -> None:
    clock = Clock()
    pace = Pace()
    pace.clock_s = clock
    delays: list[float] = []

    def call_later(delay_s: float, turn: Callable[[], None]) -> None:
        delays.append(delay_s)

    pace.call_later = call_later
    pace.next(lambda: None)
    for _ in range(100):  # of half a millisecond each: less than a timer can wait
        if publishing:
            pace.round_came()
        pace.turn_begins()
        clock.now_s += 0.0005
        pace.next(lambda: None)
    assert sum(delays) == pytest.approx(asked_s, abs=0.0025)
    assert delays[0] == 0.0
    assert all(delay == 0 or delay >= 0.002 for delay in delays)
