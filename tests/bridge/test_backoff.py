"""Back-off: doubles, is bounded, and half of it is chance."""

from __future__ import annotations

from random import Random

from bridge.backoff import Backoff, backoff_ms
from bridge.limits import BridgeLimits


def test_waits_double_up_to_the_bound_and_stay_between_half_and_all_of_it() -> None:
    for attempt, full in enumerate((100, 200, 400, 800, 1600, 1800, 1800)):
        waits = [backoff_ms(attempt, min_ms=100, max_ms=1800, rng=Random(n)) for n in range(200)]
        assert full // 2 <= min(waits) < full * 0.6
        assert full * 0.9 < max(waits) <= full


def test_a_success_begins_anew() -> None:
    retry = Backoff(min_ms=100, rng=Random(1))
    for _ in range(10):
        retry.failed(1000, max_ms=1800)
    assert retry.left_ms(1000) >= 900
    retry.succeeded()
    assert retry.left_ms(1000) <= 0
    assert retry.failed(1000, max_ms=1800) <= 100


def test_a_returned_link_is_tried_within_5_s() -> None:
    """At worst the last SYN of an attempt was just lost: its time-out, then one back-off."""
    limits = BridgeLimits()
    assert limits.connect_timeout_ms + limits.backoff_max_ms < 5000
