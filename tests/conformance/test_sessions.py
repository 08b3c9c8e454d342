"""Session state: section 4.1."""

import pytest

from gateway.mqtt.properties import Properties
from tests.conformance.acts import LEVELS, kept, publish, published, subscribed
from tests.mqtt.world import World


@pytest.mark.parametrize("level", LEVELS)
def test_a_session_is_kept_as_long_as_its_connection(world: World, level: int) -> None:
    """3.1.1 [MQTT-4.1.0-1], [MQTT-4.1.0-2]; 5.0 [MQTT-4.1.0-1]: also where it is to last no
    longer, and longer than its expiry."""
    properties = Properties(session_expiry_s=1) if level == 5 else Properties()
    client = world.connected("lasting", level, properties=properties)
    subscribed(client, "a/b", qos=1)
    world.pass_seconds(3600)
    world.connected("writer").send(publish(qos=1))
    assert len(published(client)) == 1


def test_a_session_is_discarded_when_its_time_is_up(world: World) -> None:
    """5.0 [MQTT-4.1.0-2]"""
    for seconds, is_there in ((8, True), (12, False)):
        properties = Properties(session_expiry_s=10)
        world.connected(clean=False, properties=properties).lose()
        world.pass_seconds(seconds)
        client = world.client(5)
        assert client.connect(clean=False, properties=properties).session_present == is_there
        client.lose()


@pytest.mark.parametrize("level", LEVELS)
def test_a_kept_session_survives_a_crash(world: World, level: int) -> None:
    """3.1.1 [MQTT-3.1.2-4], [MQTT-4.1.0-1]; 5.0 [MQTT-3.1.2-23]"""
    client = world.connected("reader", level, **kept(level))
    subscribed(client, "a/b", qos=1)
    world.restart()
    client = world.client(level)
    assert client.connect("reader", **kept(level)).session_present
    world.connected("writer").send(publish(qos=1))
    assert len(published(client)) == 1
