"""What a device needs of an MQTT client, and what a client may tell the device.

Two implementations share nothing but this: paho_link.py (MQTT 5.0) and amqtt_link.py (3.1.1).
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ledger import LedgerWriter
from outbox import Message

CONNECT_TIMEOUT_S = 5.0
SESSION_EXPIRY_S = 86_400
REFUSED_PAUSE_MS = 1000
"""After a refusal (a full disk, say) a device waits so long before it sends anything new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a device says of itself in CONNECT and in each PUBLISH."""

    client_id: str
    keep_alive_s: int
    content_type: str | None = None
    user_properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """One device's pen in the ledger."""

    name: str
    ledger: LedgerWriter

    def sent(self, message: Message, *, dup: bool) -> None:
        """A PUBLISH went out."""
        self.ledger.sent(self.name, message.seq, dup=dup, at_ms=wall_ms())

    def acknowledged(self, message: Message) -> None:
        """PUBACK or PUBREC came in."""
        self.ledger.acknowledged(self.name, message.seq, at_ms=wall_ms())

    def refused(self, message: Message, code: int) -> None:
        """A reason code of 0x80 or more came in."""
        self.ledger.refused(self.name, message.seq, at_ms=wall_ms(), code=code)


class Link(Protocol):
    """A client with one connection at a time, working off one outbox."""

    closed: asyncio.Event
    """Set whenever there is no connection."""

    async def open(self, host: str, port: int, *, forget: bool) -> None:
        """CONNECT, await CONNACK, send again what is unfinished. Raises LinkError.

        `forget`: the device lost its memory, so the old session must go (its packet ids would
        be taken for ours). Afterwards the session is kept.
        """

    def pump(self) -> None:
        """Send what the outbox lets."""

    def resend(self, older_than_ms: int) -> None:
        """Send again, on this connection, what was sent before that time (3.1.1 only)."""

    async def close(self) -> None:
        """DISCONNECT in order."""

    def abort(self) -> None:
        """The connection is gone, without a word."""


def wall_ms() -> int:
    """The machine's time: the one clock of the ledger and of the latency figures."""
    return time.time_ns() // 1_000_000
