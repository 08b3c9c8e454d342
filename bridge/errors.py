"""What can go wrong in the bridge, as one tree.

BridgeError
  ConfigError            an upstream's settings cannot be; the operator must act
  UpstreamFault          the upstream's or the link's doing; waited out and shown, never raised to
    |                    the gateway
    Unreachable          no connection, or it broke, or it was silent for too long
    Refused              an answer with an error code; `.code` has it
    ProtocolMismatch     an answer that cannot be read, or an API that the broker does not have
      LogHole                offsets are missing in the log: retention or damage took them
"""

from __future__ import annotations


class BridgeError(Exception):
    """Root of everything the bridge raises on purpose."""


class ConfigError(BridgeError):
    """An upstream's settings contradict themselves or cannot be read."""


class UpstreamFault(BridgeError):
    """The upstream or the link failed a request."""


class Unreachable(UpstreamFault):
    """No connection to a broker, or it was lost, or nothing moved on it for too long."""


class Refused(UpstreamFault):
    """The broker answered with an error code."""

    def __init__(self, request: str, code: int, detail: str | None = None) -> None:
        super().__init__(f"{request}: error {code}" + (f" ({detail})" if detail else ""))
        self.code = code
        self.detail = detail


class ProtocolMismatch(UpstreamFault):
    """The peer does not speak Kafka's protocol as this bridge needs it."""


class LogHole(BridgeError):
    """What is next to be sent is not in the log any more."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(f"offsets {start}..{end} are missing in the log")
        self.start, self.end = start, end
