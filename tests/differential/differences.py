"""Where Mosquitto 2.0.11 and we differ, who is right, and by which clause.

docs/differences.md is the same for people; a test holds the two together. Each entry has a
matcher that takes as little as it can, and a sequence that shows the difference: when it is gone,
its test fails and the entry must go, too. After an entry that `ends` the comparison the two
servers are in different states, and the rest of the sequence says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.mqtt.packets import LEVEL_3_1_1, LEVEL_5_0, Packet, Publish, PubRel
from tests.differential.compare import Divergence, Fact
from tests.differential.player import CLOSED
from tests.differential.sequences import Action, First, Malformed, Open, Send, Sequence, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    name: str
    clause: str
    matches: Callable[[Divergence], bool]
    example: Sequence
    ends: bool = False


def explain(divergence: Divergence) -> Difference | None:
    """The entry that this is a case of; None: it is a fault until somebody has looked."""
    return next((each for each in DIFFERENCES if each.matches(divergence)), None)


def passes_over(divergence: Divergence) -> bool:
    difference = explain(divergence)
    return difference is not None and not difference.ends


def _name(divergence: Divergence) -> str:
    action = divergence.step.action
    return action.name if isinstance(action, Malformed | First) else ""


def _sent(divergence: Divergence, kind: type[Packet]) -> bool:
    action = divergence.step.action
    return isinstance(action, Send) and isinstance(action.packet, kind)


def _refusal(facts: tuple[Fact, ...]) -> int | None:
    """The code of the one DISCONNECT or refusing CONNACK that these are."""
    match facts:
        case (("Disconnect", int(code)),) | (("ConnAck", False, int(code), False, None),):
            return code or None
    return None


def _says_why(d: Divergence) -> bool:
    return d.theirs == () and _refusal(d.ours) is not None


_OTHER_CODES = {(0x81, 0x82), (0x82, 0x81), (0x82, 0x90), (0x81, 0x90), (0x81, 0x94), (0x82, 0x94)}


def _other_code(d: Divergence) -> bool:
    return bool(_name(d)) and (_refusal(d.theirs), _refusal(d.ours)) in _OTHER_CODES


_TAKEN = {
    **dict.fromkeys(("pingreq with body", "puback too long"), "4.13.1, 3.1.1 [MQTT-4.8.0-1]"),
    **dict.fromkeys(
        ("pingreq flags", "puback flags", "pubcomp flags", "disconnect flags"),
        "[MQTT-2.1.3-1], 3.1.1 [MQTT-2.2.2-2]",
    ),
    "publish dup qos 0": "[MQTT-3.3.1-2]",
    "publish response topic #": "[MQTT-3.3.2-14]",
    "publish payload format 2": "3.3.2.3.2",
    "publish subscription id": "[MQTT-3.3.4-6]",
    **dict.fromkeys(("connack", "suback", "unsuback", "pingresp"), "3.1.1 [MQTT-4.8.0-1]"),
}
"""What Mosquitto takes and we do not, and why it must not be taken."""


def _taken(d: Divergence) -> bool:
    return _name(d) in _TAKEN and d.theirs == () and (CLOSED,) in d.ours


_BAD_FILTERS = {
    *("subscribe a+", "subscribe #/a", "subscribe empty filter"),
    *("unsubscribe a+", "unsubscribe empty filter"),
}


def _refused_filter(d: Divergence) -> bool:
    """We answer that there is no such filter, Mosquitto ends the connection."""
    match d.ours:
        case (("SubAck", 12, (0x8F | 0x80,)),) | (("UnsubAck", 12, (0x8F | 0x11,) | ()),):
            return _name(d) in _BAD_FILTERS and (CLOSED,) in d.theirs
    return False


def _data_without_method(d: Divergence) -> bool:
    return _name(d) == "connect auth data without method" and _refusal(d.ours[:1]) == 0x82


def _no_matching(d: Divergence) -> bool:
    match (d.theirs, d.ours):
        case (((("PubAck" | "PubRec") as kind, int(one), 0x10),), ((other, int(two), 0),)):
            return kind == other and one == two
    return False


def _unknown_id(d: Divergence) -> bool:
    match (d.theirs, d.ours):
        case (((("PubComp" | "PubRel") as kind, int(one), 0),), ((other, int(two), 0x92),)):
            return kind == other and one == two
    return False


def _old_form(d: Divergence) -> bool:
    return _name(d) in ("connect level 0", "connect level 9")


def _session_lost(d: Divergence) -> bool:
    before = [step.action for step in d.sequence.steps[: d.number] if step.client == d.client]
    return (
        isinstance(d.step.action, Open)
        and any(isinstance(a, Malformed) and a.name == "second connect" for a in before)
        and [fact[:2] for fact in d.theirs] == [("ConnAck", False)]
        and [fact[:2] for fact in d.ours] == [("ConnAck", True)]
    )


def _after_open(level: int, *actions: Action) -> Sequence:
    steps = tuple(Step(client=0, action=each) for each in (Open(clean=False), *actions))
    return Sequence(levels=(level, level), steps=steps)


DIFFERENCES = (
    Difference(
        name="we say why a connection ends",
        clause="4.13.1, 3.1.4 (5.0); 3.1.1 [MQTT-3.1.2-1]",
        matches=_says_why,
        example=_after_open(LEVEL_5_0, Malformed(name="second connect")),
    ),
    Difference(
        name="another reason code for the same refusal",
        clause="4.13.1",
        matches=_other_code,
        example=_after_open(LEVEL_5_0, Malformed(name="publish # in topic")),
    ),
    Difference(
        name="malformed packets that mosquitto takes",
        clause="; ".join(dict.fromkeys(_TAKEN.values())),
        matches=_taken,
        example=_after_open(LEVEL_5_0, Malformed(name="publish response topic #")),
        ends=True,
    ),
    Difference(
        name="a bad filter is answered",
        clause="3.9.3, 3.11.3, 4.13.1; 3.1.1 3.9.3",
        matches=_refused_filter,
        example=_after_open(LEVEL_3_1_1, Malformed(name="subscribe a+")),
        ends=True,
    ),
    Difference(
        name="authentication data without a method",
        clause="3.1.2.11.10",
        matches=_data_without_method,
        example=Sequence(
            levels=(5, 5),
            steps=(Step(client=0, action=First(name="connect auth data without method")),),
        ),
        ends=True,
    ),
    Difference(
        name="no matching subscribers",
        clause="3.4.2.1, 3.5.2.1",
        matches=_no_matching,
        example=_after_open(
            LEVEL_5_0, Send(packet=Publish(topic="b", payload=b"m", qos=1, packet_id=1))
        ),
    ),
    Difference(
        name="unknown packet identifiers are named",
        clause="3.6.2.1, 3.7.2.1",
        matches=_unknown_id,
        example=_after_open(LEVEL_5_0, Send(packet=PubRel(packet_id=4))),
    ),
    Difference(
        name="the form of a refusal of an unknown level",
        clause="3.1.2.2 (5.0), 3.1.1 [MQTT-3.1.2-2]",
        matches=_old_form,
        example=Sequence(
            levels=(4, 4), steps=(Step(client=0, action=First(name="connect level 9")),)
        ),
    ),
    Difference(
        name="a session survives a protocol error of its client",
        clause="3.1.1 [MQTT-3.1.2-4], 3.1.2.4",
        matches=_session_lost,
        example=_after_open(LEVEL_3_1_1, Malformed(name="second connect"), Open(clean=False)),
        ends=True,
    ),
)
