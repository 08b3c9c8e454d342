"""A subscriber as the standard wants it (4.3, 4.4): it keeps its half of the session over
connections, and remembers what it was handed."""

import threading
from collections.abc import Callable

from gateway.mqtt.packets import Packet, PubAck, PubComp, Publish, PubRec, PubRel, SubAck


class Subscriber:
    """`hear` gives the answers. `handed` has every message that was handed on, in order."""

    def __init__(self) -> None:
        self.received: set[int] = set()
        """QoS 2 identifiers that are not released (method B of 4.3.3)."""
        self.handed: list[Publish] = []
        self.subscribed = threading.Event()
        """A SUBACK came."""

    def hear(self, packet: Packet) -> list[Packet]:
        match packet:
            case Publish(qos=0):
                self.handed.append(packet)
            case Publish(qos=1):
                self.handed.append(packet)
                return [PubAck(packet_id=packet.packet_id)]
            case Publish():
                if packet.packet_id not in self.received:
                    self.received.add(packet.packet_id)
                    self.handed.append(packet)
                return [PubRec(packet_id=packet.packet_id)]
            case PubRel():
                self.received.discard(packet.packet_id)
                return [PubComp(packet_id=packet.packet_id)]
            case SubAck():
                self.subscribed.set()
        return []


def is_in_order(handed: list[Publish], number: Callable[[Publish], int]) -> bool:
    """[MQTT-4.6.0-6] first deliveries come in the order of publishing; repetitions may follow."""
    highest = -1
    seen: set[int] = set()
    for packet in handed:
        value = number(packet)
        if value in seen:
            continue
        if value < highest:
            return False
        seen.add(value)
        highest = value
    return True
