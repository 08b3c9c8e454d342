"""Mosquitto 2.0.11 and we answer generated sequences of packets alike, but for a list.

The list is tests/differential/differences.py, for people docs/differences.md. Here a few hundred
sequences with a fixed seed; as many as one likes, and others each time, with

    SEQUENCES=20000 .venv/bin/python -m pytest tests/differential -s
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from gateway.mqtt.packets import Publish, Subscribe, SubscriptionRequest
from tests.differential.compare import Divergence, diverge
from tests.differential.differences import DIFFERENCES, Difference, explain_all, passes_over
from tests.differential.player import Player
from tests.differential.sequences import Answer, Open, Send, Sequence, Step, Twice, sequences
from tests.rigs import GatewayProcess, Mosquitto
from tests.rigs.needs import require

_COUNT = int(os.environ.get("SEQUENCES", "300"))
_SEED = 5 if "SEQUENCES" not in os.environ else SystemRandom().getrandbits(32)
_PATIENCES_S = (0.05, 0.5)
"""Catch-up pauses for publishers, and the machine may be busy."""
_DOCUMENT = Path(__file__).parents[2] / "docs" / "differences.md"


@dataclass(slots=True)
class Pair:
    """Both servers, each with its player, and what was found so far."""

    mosquitto: Player
    sluicegate: Player
    counts: Counter[str] = field(default_factory=Counter)

    def compare(self, sequence: Sequence) -> list[Divergence]:
        """All divergences but those that more patience makes go away."""
        found = self._compare(sequence, patience_s=0.0)
        for patience_s in _PATIENCES_S:
            if None not in explain_all(found):
                break
            found = self._compare(sequence, patience_s=patience_s)
        return found

    def _compare(self, sequence: Sequence, *, patience_s: float) -> list[Divergence]:
        theirs = self.mosquitto.play(sequence, patience_s=patience_s)
        ours = self.sluicegate.play(sequence, patience_s=patience_s)
        return diverge(sequence, theirs, ours, passes_over)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    require("mosquitto")
    directory = tmp_path_factory.mktemp("differential")
    mosquitto = Mosquitto(directory / "mosquitto")
    mosquitto.start()
    try:
        with GatewayProcess(directory / "gateway") as gateway:
            players = Pair(Player(mosquitto.port), Player(gateway.port))
            yield players
            players.mosquitto.close()
            players.sluicegate.close()
    finally:
        mosquitto.stop()


def test_generated_sequences_are_answered_alike(pair: Pair) -> None:
    @seed(_SEED)
    @settings(
        max_examples=_COUNT,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(sequences())
    def run(sequence: Sequence) -> None:
        divergences = pair.compare(sequence)
        pair.counts["sequences"] += 1
        pair.counts["alike in all"] += not divergences
        for divergence, difference in zip(divergences, explain_all(divergences), strict=True):
            assert difference is not None, f"\n{divergence}"
            pair.counts[difference.name] += 1

    run()
    print(
        f"\nseed {_SEED}", *(f"{count:7,} {name}" for name, count in pair.counts.items()), sep="\n"
    )
    assert pair.counts["alike in all"] > _COUNT / 4, "the list swallows what it should not"


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda each: each.name)
def test_every_listed_difference_is_still_there(pair: Pair, difference: Difference) -> None:
    assert difference in explain_all(pair.compare(difference.example))


def test_the_document_lists_what_the_code_does() -> None:
    text = _DOCUMENT.read_text()
    missing = [each.name for each in DIFFERENCES if f"| {each.name} |" not in text]
    assert missing == []
    assert text.count("\n| ") == len(DIFFERENCES) + 2, "a row that is not in the code"


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("level", [4, 5])
def test_an_acknowledgement_of_the_other_qos_ends_the_connection(
    pair: Pair, level: int, qos: int
) -> None:
    """[MQTT-4.13.1-1], 3.1.1 [MQTT-4.8.0-1]; else the message would wait for ever."""
    actions = (
        Open(),
        Send(packet=Subscribe(packet_id=1, requests=(SubscriptionRequest(filter="a", qos=qos),))),
        Twice(packet=Publish(topic="a", payload=b"m", qos=2, packet_id=1)),
        Answer(place=0, is_wrong=True),
    )
    steps = tuple(Step(client=0, action=each) for each in actions)
    sequence = Sequence(levels=(level, level), steps=steps)
    assert None not in explain_all(pair.compare(sequence))
    assert "closed" in pair.sluicegate.play(sequence)[-1][-1].items
