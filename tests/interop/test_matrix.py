"""What each client must be able to do with a gateway, both ways: it publishes and it subscribes.

A cell that a client cannot have says so here: `DRIVERS` has whether it speaks 5.0, `_NO_WEBSOCKET`
who knows no WebSocket.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.interop.clients import CONTENT_TYPE, DRIVERS, USER_PROPERTY, Driver, Place
from tests.mqtt.doors import gateway_with, listener
from tests.rigs import free_port
from tests.rigs.certificates import Authority
from tests.rigs.needs import require

_NO_WEBSOCKET = ("mosquitto_pub, mosquitto_sub",)
_NEEDS = {"mosquitto_pub, mosquitto_sub": "mosquitto", "MQTT.js": "node"}
_WITH_WEBSOCKET = [name for name in DRIVERS if name not in _NO_WEBSOCKET]
_WITH_5_0 = [name for name, driver in DRIVERS.items() if driver.is_5_0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    tcp: Place
    tls: Place
    websocket: Place


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("interop")
    authority = Authority(folder / "certificates")
    own = authority.issue("127.0.0.1")
    tls, websocket = free_port(), free_port()
    tables = (
        listener("tls", "mqtts", tls, certificate=own.certificate, key=own.key),
        listener("pages", "ws", websocket, path="/mqtt"),
    )
    with gateway_with(folder, *tables) as gateway:
        yield Site(
            tcp=Place(port=gateway.port),
            tls=Place(port=tls, ca=authority.ca),
            websocket=Place(port=websocket, path="/mqtt"),
        )


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Driver:
    name = request.param
    if name in _NEEDS:
        require(_NEEDS[name])
    return DRIVERS[name]()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """Of this test alone, for retained messages stay."""
    return "interop/" + "".join(c if c.isalnum() else "-" for c in request.node.name)


def every(names: object) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("driver", names, indirect=True)  # type: ignore[arg-type]


def _both_ways(driver: Driver, place: Place, topic: str) -> None:
    subscriber = driver.subscribe(place, topic.replace("/", "-"), topic)
    try:
        for qos in range(3):
            driver.publish(place, topic, b"qos %d" % qos, qos=qos)
            message = subscriber.take()
            assert (message.topic, message.payload) == (topic, b"qos %d" % qos)
            assert (message.qos, message.retain) == (qos, False)
    finally:
        subscriber.close()


@every(DRIVERS)
def test_every_qos_over_tcp(driver: Driver, site: Site, topic: str) -> None:
    _both_ways(driver, site.tcp, topic)


@every(DRIVERS)
def test_every_qos_over_tls(driver: Driver, site: Site, topic: str) -> None:
    _both_ways(driver, site.tls, topic)


@every(_WITH_WEBSOCKET)
def test_every_qos_over_websocket(driver: Driver, site: Site, topic: str) -> None:
    _both_ways(driver, site.websocket, topic)


@every(DRIVERS)
def test_a_retained_message(driver: Driver, site: Site, topic: str) -> None:
    driver.publish(site.tcp, topic, b"kept", qos=1, retain=True)
    subscriber = driver.subscribe(site.tcp, topic.replace("/", "-"), topic)
    try:
        message = subscriber.take()
        assert (message.payload, message.qos, message.retain) == (b"kept", 1, True)
    finally:
        subscriber.close()


@every(DRIVERS)
def test_a_will(driver: Driver, site: Site, topic: str) -> None:
    watcher = driver.subscribe(site.tcp, "watcher", topic)
    try:
        mortal = driver.subscribe(site.tcp, "mortal", topic + "/other", will=topic)
        mortal.lose()
        message = watcher.take()
        assert (message.payload, message.qos) == (b"gone", 1)
    finally:
        watcher.close()


@every(DRIVERS)
def test_a_session_keeps_what_came_while_it_was_away(
    driver: Driver, site: Site, topic: str
) -> None:
    client_id = "kept-" + topic.replace("/", "-")
    driver.subscribe(site.tcp, client_id, topic, keeps=True).close()
    for qos in (1, 2):
        driver.publish(site.tcp, topic, b"qos %d" % qos, qos=qos)
    again = driver.subscribe(site.tcp, client_id, topic, keeps=True)
    try:
        # Of two publishers, and of two qualities of service: in no order [MQTT-4.6.0-6].
        assert {again.take().payload for _ in range(2)} == {b"qos 1", b"qos 2"}
    finally:
        again.close()


@every(_WITH_5_0)
def test_properties_of_a_message(driver: Driver, site: Site, topic: str) -> None:
    subscriber = driver.subscribe(site.tcp, topic.replace("/", "-"), topic)
    try:
        driver.publish(site.tcp, topic, b"21.5", qos=1)
        message = subscriber.take()
        assert message.content_type == CONTENT_TYPE
        assert message.user_property == USER_PROPERTY
    finally:
        subscriber.close()
