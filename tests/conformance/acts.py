"""What the clients of these tests do and look for, in few words."""

from typing import Any

from gateway.mqtt.packets import (
    ConnAck,
    Disconnect,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
)
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode
from tests.mqtt.world import Client

LEVELS = (4, 5)


def publish(payload: bytes = b"1", topic: str = "a/b", *, qos: int = 0, **how: Any) -> Publish:
    how.setdefault("packet_id", 1 if qos else 0)
    return Publish(topic=topic, payload=payload, qos=qos, **how)


def subscribe(*filters: str, qos: int = 2, packet_id: int = 10, **options: Any) -> Subscribe:
    properties = options.pop("properties", Properties())
    return Subscribe(
        packet_id=packet_id,
        requests=tuple([SubscriptionRequest(filter=name, qos=qos, **options) for name in filters]),
        properties=properties,
    )


def kept(level: int, *, clean: bool = False) -> dict[str, Any]:
    """How to connect for a session that outlives the connection."""
    properties = Properties(session_expiry_s=1000) if level == 5 else Properties()
    return {"clean": clean, "properties": properties}


def subscribed(client: Client, *filters: str, qos: int = 2, **options: Any) -> None:
    """Subscribes, and has been answered."""
    client.send(subscribe(*filters, qos=qos, **options))
    answer, *rest = client.committed()
    assert isinstance(answer, SubAck) and answer.codes == (qos,) * len(filters), answer
    assert rest == []


def published(client: Client) -> list[Publish]:
    """The PUBLISHes that it is sent once all is durable; other packets are not looked at."""
    return [packet for packet in client.committed() if isinstance(packet, Publish)]


def reason_of_end(client: Client) -> int | None:
    """The connection is closed; the reason that the server gave, if any."""
    assert client.is_closed, "the connection is still open"
    packets = client.committed()
    last = packets[-1] if packets else None
    return last.code if isinstance(last, Disconnect | ConnAck) else None


def assert_ended(client: Client, reason: ReasonCode) -> None:
    """5.0 is told the reason, 3.1.1 is left."""
    assert reason_of_end(client) == (reason if client.level == 5 else None)
