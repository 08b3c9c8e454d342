"""Hypothesis strategies for packets and properties that are valid in both directions."""

from typing import Any

from hypothesis import strategies as st

from gateway.mqtt import packets as p
from gateway.mqtt.properties import _TABLE, PacketType, Properties

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
datas = st.binary(max_size=20)
ids = st.integers(1, 0xFFFF)
codes = st.integers(0, 0xFF)
_TAKEN_OR_NOT = (0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)
_KNOWN_OR_NOT = (0x00, 0x92)
u16 = st.integers(0, 0xFFFF)
u16_not_0 = st.integers(1, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
bits = st.integers(0, 1)

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "payload_format": bits,
    "message_expiry_s": u32,
    "content_type": texts,
    "response_topic": texts,
    "correlation_data": datas,
    "session_expiry_s": u32,
    "assigned_client_id": texts,
    "server_keep_alive_s": u16,
    "authentication_method": texts,
    "authentication_data": datas,
    "request_problem_information": bits,
    "will_delay_s": u32,
    "request_response_information": bits,
    "response_information": texts,
    "server_reference": texts,
    "reason_string": texts,
    "receive_maximum": u16_not_0,
    "topic_alias_maximum": u16,
    "topic_alias": u16,
    "maximum_qos": bits,
    "retain_available": bits,
    "user_properties": st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    "maximum_packet_bytes": st.integers(1, 0xFFFFFFFF),
    "wildcard_subscription_available": bits,
    "subscription_identifiers_available": bits,
    "shared_subscription_available": bits,
}


def properties(packet_type: PacketType) -> st.SearchStrategy[Properties]:
    fields = {
        field: _VALUES[field]
        for field, _, packet_types in _TABLE.values()
        if packet_type in packet_types and field != "subscription_ids"
    }
    if packet_type is PacketType.PUBLISH:
        fields["subscription_ids"] = st.lists(st.integers(1, 268_435_455), max_size=3).map(tuple)
    elif packet_type is PacketType.SUBSCRIBE:
        fields["subscription_ids"] = st.lists(st.integers(1, 268_435_455), max_size=1).map(tuple)
    if packet_type is PacketType.CONNECT:
        del fields["authentication_data"]  # never without a method
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: Properties(**given))


def _none(level: int, packet_type: PacketType) -> st.SearchStrategy[Properties]:
    return properties(packet_type) if level == 5 else st.just(Properties())


def _ack(kind: Any, packet_type: PacketType, level: int) -> st.SearchStrategy[p.Packet]:
    return st.builds(
        kind,
        packet_id=ids,
        code=st.sampled_from(_TAKEN_OR_NOT if kind in (p.PubAck, p.PubRec) else _KNOWN_OR_NOT)
        if level == 5
        else st.just(0),
        properties=_none(level, packet_type),
    )


def _will(level: int) -> st.SearchStrategy[p.Will]:
    return st.builds(
        p.Will,
        topic=texts,
        payload=datas,
        qos=st.integers(0, 2),
        retain=st.booleans(),
        properties=_none(level, PacketType.WILL),
    )


def connects(level: int) -> st.SearchStrategy[p.Connect]:
    user_names = st.none() | texts
    passwords = st.none() | datas
    return st.builds(
        p.Connect,
        level=st.just(level),
        client_id=texts,
        clean_start=st.booleans(),
        keep_alive_s=u16,
        will=st.none() | _will(level),
        user_name=user_names,
        password=passwords,
        properties=_none(level, PacketType.CONNECT),
    ).filter(lambda packet: level == 5 or packet.password is None or packet.user_name is not None)


def publishes(level: int) -> st.SearchStrategy[p.Publish]:
    return st.integers(0, 2).flatmap(
        lambda qos: st.builds(
            p.Publish,
            topic=texts,
            payload=datas,
            qos=st.just(qos),
            packet_id=ids if qos else st.just(0),
            dup=st.booleans() if qos else st.just(False),
            retain=st.booleans(),
            properties=_none(level, PacketType.PUBLISH),
        )
    )


def _requests(level: int) -> st.SearchStrategy[p.SubscriptionRequest]:
    of_5_0 = level == 5
    return st.builds(
        p.SubscriptionRequest,
        filter=texts,
        qos=st.integers(0, 2),
        no_local=st.booleans() if of_5_0 else st.just(False),
        retain_as_published=st.booleans() if of_5_0 else st.just(False),
        retain_handling=st.integers(0, 2) if of_5_0 else st.just(0),
    )


def packets(level: int) -> st.SearchStrategy[p.Packet]:
    """Every kind of packet there is at this level."""
    kinds: list[st.SearchStrategy[Any]] = [
        connects(level),
        publishes(level),
        st.builds(
            p.ConnAck,
            session_present=st.booleans(),
            code=codes,
            properties=_none(level, PacketType.CONNACK),
        ),
        _ack(p.PubAck, PacketType.PUBACK, level),
        _ack(p.PubRec, PacketType.PUBREC, level),
        _ack(p.PubRel, PacketType.PUBREL, level),
        _ack(p.PubComp, PacketType.PUBCOMP, level),
        st.builds(
            p.Subscribe,
            packet_id=ids,
            requests=st.lists(_requests(level), min_size=1, max_size=3).map(tuple),
            properties=_none(level, PacketType.SUBSCRIBE),
        ),
        st.builds(
            p.SubAck,
            packet_id=ids,
            codes=st.lists(codes, max_size=3).map(tuple),
            properties=_none(level, PacketType.SUBACK),
        ),
        st.builds(
            p.Unsubscribe,
            packet_id=ids,
            filters=st.lists(texts, min_size=1, max_size=3).map(tuple),
            properties=_none(level, PacketType.UNSUBSCRIBE),
        ),
        st.builds(
            p.UnsubAck,
            packet_id=ids,
            codes=st.lists(codes, max_size=3).map(tuple) if level == 5 else st.just(()),
            properties=_none(level, PacketType.UNSUBACK),
        ),
        st.just(p.PingReq()),
        st.just(p.PingResp()),
    ]
    if level == 5:
        kinds += [
            st.builds(
                p.Disconnect,
                code=st.sampled_from((0, 4, 0x80, 0x81, 0x8E, 0x93, 0xA2)),
                properties=properties(PacketType.DISCONNECT),
            ),
            st.builds(
                p.Auth,
                code=st.sampled_from((0, 0x18, 0x19)),
                properties=properties(PacketType.AUTH),
            ),
        ]
    else:
        kinds.append(st.just(p.Disconnect()))
    return st.one_of(kinds)
