"""Where Mosquitto 2.0.11 and we differ, who is right, and by which clause.

docs/differences.md is the same for people; a test holds the two together. Each entry has a
matcher that takes as little as it can, and a sequence that shows the difference: when it is gone,
its test fails and the entry must go, too. After an entry that `ends` the comparison the two
servers are in different states, and the rest of the sequence says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.mqtt.packets import (
    LEVEL_3_1_1,
    LEVEL_5_0,
    Publish,
    PubRel,
    Subscribe,
    SubscriptionRequest,
    Unsubscribe,
    Will,
)
from gateway.mqtt.topics import filter_matches
from tests.differential.compare import Divergence, Fact
from tests.differential.player import CLOSED
from tests.differential.sequences import Action, Drop, First, Malformed, Open, Send, Sequence, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    name: str
    clause: str
    matches: Callable[[Divergence], bool]
    example: Sequence
    ends: bool = False


def explain_all(divergences: list[Divergence]) -> list[Difference | None]:
    """For each its entry. Where one connection lives on at one server only, what the other client
    sees of that (a will, a message) in the same step is the same difference."""
    found = [explain(each) for each in divergences]
    for at, divergence in enumerate(divergences):
        if found[at] is None and _only_deliveries(divergence.theirs + divergence.ours):
            causes = [
                cause
                for other, cause in zip(divergences, found, strict=True)
                if other.number == divergence.number and cause is not None and cause.ends
            ]
            found[at] = next(iter(causes), None)
    return found


def explain(divergence: Divergence) -> Difference | None:
    """The entry that this is a case of; None: it is a fault until somebody has looked."""
    return next((each for each in DIFFERENCES if each.matches(divergence)), None)


def passes_over(divergence: Divergence) -> bool:
    difference = explain(divergence)
    return difference is not None and not difference.ends


def _name(divergence: Divergence) -> str:
    action = divergence.step.action
    return action.name if isinstance(action, Malformed | First) else ""


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


def _only_deliveries(facts: tuple[Fact, ...]) -> bool:
    return all(fact[0] == "Publish" for fact in facts)


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
    forwarded = all(
        fact[0] == "Publish" or "packet of this level" in str(fact[0]) for fact in d.theirs
    )
    return _name(d) in _TAKEN and forwarded and (CLOSED,) in d.ours


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
    """Both refuse and close: a CONNACK of another form, or one that 3.1.1 cannot read."""
    return _name(d) in ("connect level 0", "connect level 9") and all(
        (fact[0] == "ConnAck" and fact[2] != 0) or "packet of this level" in str(fact[0])
        for fact in d.theirs + d.ours
    )


def _session_lost(d: Divergence) -> bool:
    before = [step.action for step in d.sequence.steps[: d.number] if step.client == d.client]
    return (
        isinstance(d.step.action, Open)
        and any(isinstance(a, Malformed) and a.name == "second connect" for a in before)
        and [fact[:2] for fact in d.theirs] == [("ConnAck", False)]
        and [fact[:2] for fact in d.ours] == [("ConnAck", True)]
    )


def _before_release(d: Divergence) -> bool:
    """We deliver a QoS 2 message when it is durable, Mosquitto when it is released."""
    action = d.step.action
    if not (isinstance(action, Send) and isinstance(action.packet, Publish)):
        return False
    return (
        action.packet.qos == 2
        and d.theirs == ()
        and all(fact[:2] == ("Publish", action.packet.topic) for fact in d.ours)
    )


def _sent_again(d: Divergence) -> bool:
    action = d.step.action
    if not (isinstance(action, Send) and isinstance(action.packet, Publish)):
        return False
    again = action.packet
    before = [
        step.action.packet
        for step in d.sequence.steps[: d.number]
        if step.client == d.client
        and isinstance(step.action, Send)
        and isinstance(step.action.packet, Publish)
    ]
    return (
        again.qos == 2
        and sum(each.qos == 2 and each.packet_id == again.packet_id for each in before) > 1
        and d.theirs in (((CLOSED,),), (("Disconnect", 0x82), (CLOSED,)))
        and d.ours == (("PubRec", again.packet_id, 0),)
    )


def _own_will(d: Divergence) -> bool:
    """The will of a connection that is taken over; Mosquitto may send it to nobody."""
    will = None
    for step in d.sequence.steps[: d.number]:
        if step.client == d.step.client and isinstance(step.action, Open):
            will = step.action.will
        elif step == Step(client=d.step.client, action=Drop()):
            will = None
    facts = d.theirs + d.ours
    deliveries = [fact for fact in facts if fact[0] == "Publish"]
    rest = [fact for fact in facts if fact[0] != "Publish"]
    return (
        isinstance(d.step.action, Open)
        and will is not None
        and bool(deliveries)
        and all(fact[1:3] == (will.topic, will.payload) for fact in deliveries)
        and all(fact in (("Disconnect", 0x8E), (CLOSED,)) for fact in rest)
    )


def _no_subscription(d: Divergence) -> bool:
    match (d.theirs, d.ours):
        case ((("UnsubAck", int(one), tuple(theirs)),), (("UnsubAck", int(two), tuple(ours)),)):
            return one == two and all(
                left == right or (left, right) == (0, 0x11)
                for left, right in zip(theirs, ours, strict=True)
            )
    return False


def _lower_qos(d: Divergence) -> bool:
    """The same deliveries, ours at a higher QoS: of several subscriptions the highest counts."""
    return (
        bool(d.ours)
        and len(d.theirs) == len(d.ours)
        and all(
            left[:3] == right[:3]
            and left[0] == "Publish"
            and int(str(left[3])) < int(str(right[3]))
            for left, right in zip(d.theirs, d.ours, strict=True)
        )
    )


def _requests(d: Divergence) -> list[SubscriptionRequest]:
    """All that the client has asked for before the step."""
    return [
        request
        for step in d.sequence.steps[: d.number]
        if step.client == d.client
        and isinstance(step.action, Send)
        and isinstance(step.action.packet, Subscribe)
        for request in step.action.packet.requests
    ]


def _one_message(d: Divergence) -> str:
    """The topic of the only message in question, "" where there is none or more than one."""
    facts = d.theirs + d.ours
    if d.level != LEVEL_5_0 or not _only_deliveries(facts):
        return ""
    found = {(str(fact[1]), fact[2]) for fact in facts}
    return next(iter(found))[0] if len(found) == 1 else ""


def _stale_no_local(d: Divergence) -> bool:
    topic = _one_message(d)
    options: dict[str, set[bool]] = {}
    for request in _requests(d):
        options.setdefault(request.filter, set()).add(request.no_local)
    return d.step.client == d.client and any(
        len(values) == 2 and filter_matches(name, topic) for name, values in options.items()
    )


def _copies(d: Divergence) -> bool:
    """A copy for each subscription, or one with the identifiers of all."""
    topic = _one_message(d)
    matching = {each.filter for each in _requests(d) if filter_matches(each.filter, topic)}
    if not topic or len(matching) < 2 or len(d.theirs) < len(d.ours):
        return False
    if isinstance(d.step.action, Open):
        return True  # all that came while it was away
    return (
        len(d.ours) <= 1
        and len(d.theirs) <= len(matching)
        and all(_subscription_ids(d.theirs) <= _subscription_ids((fact,)) for fact in d.ours)
        and all(int(str(left[3])) <= int(str(fact[3])) for fact in d.ours for left in d.theirs)
    )


def _subscription_ids(facts: tuple[Fact, ...]) -> set[int]:
    fields = [dict(fact[6]) for fact in facts if isinstance(fact[6], tuple)]
    return {each for given in fields for each in given.get("subscription_ids", ())}


def _after_open(level: int, *actions: Action) -> Sequence:
    steps = tuple(Step(client=0, action=each) for each in (Open(clean=False), *actions))
    return Sequence(levels=(level, level), steps=steps)


def _subscribe(*filters: tuple[str, int]) -> Send:
    requests = tuple(SubscriptionRequest(filter=name, qos=qos) for name, qos in filters)
    return Send(packet=Subscribe(packet_id=1, requests=requests))


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
    Difference(
        name="QoS 2 messages are delivered before they are released",
        clause="4.3.3",
        matches=_before_release,
        example=_after_open(
            LEVEL_3_1_1,
            _subscribe(("a", 1)),
            Send(packet=Publish(topic="a", payload=b"m", qos=2, packet_id=1)),
        ),
        ends=True,
    ),
    Difference(
        name="a QoS 2 PUBLISH that is sent again and again",
        clause="[MQTT-4.3.3-10], 3.1.1 [MQTT-4.3.3-2]",
        matches=_sent_again,
        example=_after_open(
            LEVEL_3_1_1,
            *[Send(packet=Publish(topic="a", payload=b"m", qos=2, packet_id=1, dup=True))] * 3,
        ),
        ends=True,
    ),
    Difference(
        name="the will of a connection that is taken over",
        clause="3.1.4, 3.1.1 [MQTT-3.1.2-8]",
        matches=_own_will,
        example=Sequence(
            levels=(4, 4),
            steps=tuple(
                Step(client=0, action=each)
                for each in (
                    Open(clean=False, will=Will(topic="a", payload=b"will", qos=1)),
                    _subscribe(("a", 1)),
                    Open(clean=False),
                )
            ),
        ),
        ends=True,
    ),
    Difference(
        name="no subscription existed",
        clause="3.11.3",
        matches=_no_subscription,
        example=_after_open(
            LEVEL_5_0,
            Send(packet=Unsubscribe(packet_id=1, filters=("$unseen/a",))),
        ),
    ),
    Difference(
        name="No Local of a subscription that is made again",
        clause="[MQTT-3.8.4-3]",
        matches=_stale_no_local,
        example=_after_open(
            LEVEL_5_0,
            _subscribe(("a", 1)),
            Send(
                packet=Subscribe(
                    packet_id=2,
                    requests=(SubscriptionRequest(filter="a", qos=1, no_local=True),),
                )
            ),
            Send(packet=Publish(topic="a", payload=b"m", qos=1, packet_id=1)),
        ),
        ends=True,
    ),
    Difference(
        name="one copy for overlapping subscriptions",
        clause="3.3.4, [MQTT-3.3.4-4]",
        matches=_copies,
        example=_after_open(
            LEVEL_5_0,
            _subscribe(("a", 1), ("#", 1)),
            Send(packet=Publish(topic="a", payload=b"m", qos=1, packet_id=1)),
        ),
        ends=True,
    ),
    Difference(
        name="the highest QoS of overlapping subscriptions",
        clause="[MQTT-3.3.5-1], 3.1.1 [MQTT-3.3.5-1]",
        matches=_lower_qos,
        example=_after_open(
            LEVEL_3_1_1,
            _subscribe(("#", 1), ("b", 0)),
            Send(packet=Publish(topic="b", payload=b"m", qos=1, packet_id=1)),
        ),
        ends=True,
    ),
)
