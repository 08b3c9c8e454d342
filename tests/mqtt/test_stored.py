"""A record says all that a delivery needs: what was published is read back from it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ingest import Ingest
from gateway.mqtt.inbound import Inbound
from gateway.mqtt.packets import LEVEL_5_0, Publish
from gateway.mqtt.properties import Properties
from gateway.mqtt.stored import stored_message
from gateway.routing import ConstantKey, Router, RouteRule
from tests.mqtt.world import World

_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
_PROPERTIES = st.builds(
    Properties,
    payload_format=st.sampled_from([None, 0, 1]),
    message_expiry_s=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.none() | _TEXT,
    response_topic=st.none() | st.just("answer/here"),
    correlation_data=st.none() | st.binary(max_size=20),
    user_properties=st.lists(
        st.tuples(_TEXT | st.sampled_from(["mqtt.qos", "mqtt.user.x", "mqtt.topic"]), _TEXT)
    ).map(tuple),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(qos=st.sampled_from([0, 1, 2]), properties=_PROPERTIES)
def test_what_was_published_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, qos: int, properties: Properties
) -> None:
    world = World(tmp_path_factory.mktemp("log"))
    packet = Publish(
        topic="a/b", payload=b"p", qos=qos, packet_id=7 if qos else 0, properties=properties
    )
    world.connected("device").send(packet)
    world.commit()
    (record,) = world.records()
    message = stored_message(record)
    assert record.value == b"p"
    assert (message.topic, message.client_id, message.qos) == (b"a/b", "device", qos)
    assert message.properties == properties
    world.close()


def test_the_publisher_is_known_where_the_key_is_another(tmp_path: Path) -> None:
    world = World(tmp_path)
    rule = RouteRule(topic_filter="#", stream="mqtt", key=ConstantKey("all"))
    ingest = Ingest(world.log, Router({"mqtt": 3}, [rule]))
    world.broker.ingest = ingest
    world.connected("device", 4).send(
        Publish(topic="a", payload=b"p", qos=1, packet_id=7, retain=True)
    )
    world.commit()
    (record,) = world.records()
    message = stored_message(record)
    assert record.key == b"all"
    assert (message.client_id, message.qos, message.retain) == ("device", 1, True)


def test_a_run_makes_its_headers_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    inbound = Inbound(world.broker.ingest, "device", LEVEL_5_0, world.limits)
    body = b"\0\1a\0payload"
    assert inbound.find(0x30, body, 0, len(body)) is inbound.find(0x30, body, 0, len(body))
