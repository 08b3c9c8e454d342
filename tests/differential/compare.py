"""What two servers answered to one sequence, made alike where the standard leaves it open.

Left open, and so made alike here:
- packet identifiers of deliveries are the server's: they become ordinals of each connection;
- acknowledgements and deliveries may overtake each other (4.6 orders each kind, and deliveries of
  one topic), so a step's answers are sorted, deliveries stably by topic;
- what a server offers in CONNACK (Receive Maximum, aliases, sizes, what is available) is its own;
- Reason Strings and user properties of acknowledgements are for people (3.x.2.2.2);
- the seconds of Message Expiry that are left; that it is there is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.mqtt.packets import ConnAck, Publish, PubRel
from tests.differential.player import Item, Seen
from tests.differential.sequences import Sequence, Step

Fact = tuple[object, ...]
"""One answer: its kind, then what is compared of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first step after which one connection saw something else from the two servers.

    `theirs` and `ours` are what only Mosquitto and only we sent.
    """

    sequence: Sequence
    number: int
    client: int
    is_old: bool
    theirs: tuple[Fact, ...]
    ours: tuple[Fact, ...]

    @property
    def step(self) -> Step:
        return self.sequence.steps[self.number]

    @property
    def level(self) -> int:
        return self.sequence.levels[self.client]

    def __str__(self) -> str:
        steps = "\n".join(
            f"  {'->' if number == self.number else '  '} {'ab'[step.client]}: {step.action}"
            for number, step in enumerate(self.sequence.steps)
        )
        return (
            f"levels {self.sequence.levels}\n{steps}\n"
            f"  {'old ' * self.is_old}connection of {'ab'[self.client]}\n"
            f"  only mosquitto: {self.theirs}\n  only sluicegate: {self.ours}"
        )


class Normaliser:
    """One server's answers as facts; ordinals of packet identifiers live as long as it."""

    def __init__(self) -> None:
        self._ordinals: dict[tuple[int, int], int] = {}
        self._counts: dict[int, int] = {}

    def facts(self, seen: Seen) -> list[Fact]:
        found = [self._fact(seen.client, item) for item in seen.items]
        return sorted(found, key=_place)

    def _ordinal(self, client: int, packet_id: int) -> int:
        key = (client, packet_id)
        if key not in self._ordinals:
            self._counts[client] = self._counts.get(client, 0) + 1
            self._ordinals[key] = self._counts[client]
        return self._ordinals[key]

    def _fact(self, client: int, item: Item) -> Fact:
        if isinstance(item, str):
            return (item,)
        kind = type(item).__name__
        properties = getattr(item, "properties", None)
        if isinstance(item, ConnAck):
            given = item.properties
            assigned = given.assigned_client_id is not None
            return (kind, item.session_present, item.code, assigned, given.session_expiry_s)
        if isinstance(item, Publish):
            given = item.properties
            fields = {
                name: value
                for name in given.__struct_fields__
                if (value := getattr(given, name)) not in (None, ()) and name != "topic_alias"
            }
            if "message_expiry_s" in fields:
                fields["message_expiry_s"] = "given"
            if "subscription_ids" in fields:
                fields["subscription_ids"] = tuple(sorted(given.subscription_ids))
            return (
                *(kind, item.topic, item.payload, item.qos, item.dup, item.retain),
                tuple(sorted(fields.items())),
            )
        if isinstance(item, PubRel):
            return (kind, self._ordinal(client, item.packet_id), item.code)
        if properties is None:
            return (kind,)
        listed = tuple(
            getattr(item, name) for name in ("packet_id", "code", "codes") if hasattr(item, name)
        )
        return (kind, *listed)


def _place(fact: Fact) -> tuple[int, str]:
    if fact[0] == "Publish":
        return 1, str(fact[1])
    return (2 if fact[0] in ("closed", "Disconnect") else 0), repr(fact)


def diverge(
    sequence: Sequence,
    theirs: list[list[Seen]],
    ours: list[list[Seen]],
    is_passed_over: Callable[[Divergence], bool] = lambda _: False,
) -> list[Divergence]:
    """Where the answers differ: all that is passed over, up to and with the first step that has
    something that is not; empty: they are alike."""
    their_facts, our_facts = Normaliser(), Normaliser()
    found: list[Divergence] = []
    for number, (their_step, our_step) in enumerate(zip(theirs, ours, strict=True)):
        goes_on = True
        for their_seen, our_seen in zip(their_step, our_step, strict=True):
            left = their_facts.facts(their_seen)
            right = our_facts.facts(our_seen)
            if left != right:
                divergence = Divergence(
                    sequence=sequence,
                    number=number,
                    client=our_seen.client,
                    is_old=our_seen.is_old,
                    theirs=_only(left, right),
                    ours=_only(right, left),
                )
                found.append(divergence)
                goes_on = goes_on and is_passed_over(divergence)
        if not goes_on:
            break
    return found


def _only(facts: list[Fact], other: list[Fact]) -> tuple[Fact, ...]:
    left = list(other)
    only = []
    for fact in facts:
        if fact in left:
            left.remove(fact)
        else:
            only.append(fact)
    # The same in another order: say all of it.
    return tuple(only) if only or len(facts) != len(other) else tuple(facts)
