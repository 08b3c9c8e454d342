"""The core against a modelled leader: crashes, lost answers, fail-overs, expired producers, by
seed.

A failure prints its seed; `SLUICEGATE_SEED=N` runs that one alone, `SLUICEGATE_RUNS=N` more of
them.
"""

from __future__ import annotations

import os

import pytest

from tests.bridge.simulation import Simulation

_RUNS = int(os.environ.get("SLUICEGATE_RUNS", "60"))
_ONE = os.environ.get("SLUICEGATE_SEED")
_SEEDS = [int(_ONE)] if _ONE else range(_RUNS)
_NEAR_WRAP = (1 << 31) - 40


def _run(simulation: Simulation, seed: int) -> None:
    try:
        for _ in range(400):
            simulation.step()
        simulation.heal()
        simulation.check()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize(
    "first_offset", [0, _NEAR_WRAP], ids=["from 0", "over the sequence's wrap"]
)
def test_every_record_arrives_once_and_in_order_whatever_breaks(first_offset: int) -> None:
    for seed in _SEEDS:
        _run(Simulation(seed, first_offset=first_offset), seed)


def test_what_a_broker_forgot_is_sent_again_with_a_mark() -> None:
    for seed in _SEEDS:
        _run(Simulation(seed, can_forget=True), seed)


def test_what_retention_took_is_passed_over_and_nothing_else_is() -> None:
    for seed in _SEEDS:
        _run(Simulation(seed, can_remove=True), seed)


def test_batches_too_large_for_the_topic_are_cut_until_they_pass() -> None:
    for seed in _SEEDS:
        _run(Simulation(seed, records_max=2), seed)
