"""Crash points by the thousand: whatever the disk loses, nothing acknowledged is.

    SLUICEGATE_CRASH_POINTS=200000 .venv/bin/python -m pytest tests/log/test_crash_simulation.py -s

is the long form; the default is a few thousand. A failure names its seed:

    SLUICEGATE_CRASH_SEED=17 .venv/bin/python -m pytest tests/log/test_crash_simulation.py

lives that one life again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.log.simulation import World, lives

CRASH_POINTS = int(os.environ.get("SLUICEGATE_CRASH_POINTS", "3000"))
CRASHES_A_LIFE = 12


def simulate(
    make: Callable[[int], World], points: int, *, errors: bool, seed: int
) -> tuple[int, Counter[str]]:
    """Lives from `seed` on, until there were `points` crashes. A failure is noted with its seed."""
    only = os.environ.get("SLUICEGATE_CRASH_SEED")
    happened = 0
    did: Counter[str] = Counter()
    while happened < points:
        world = make(int(only) if only else seed)
        try:
            happened += lives(world, CRASHES_A_LIFE, errors=errors)
        except BaseException as error:
            error.add_note(f"seed {world.seed} after {happened} crash points; {world.did}")
            raise
        did += world.did
        seed += 1
        if only:
            break
    return happened, did


@pytest.mark.parametrize("errors", [False, True], ids=["crashes", "crashes and disk errors"])
def test_what_was_acknowledged_survives_every_crash(errors: bool) -> None:
    seed = int(time.time()) if os.environ.get("SLUICEGATE_CRASH_RANDOM") else 1
    print(f"seed {seed}")
    happened, did = simulate(World, CRASH_POINTS // 2, errors=errors, seed=seed)
    print(f"{happened} crash points, {dict(did)}")
