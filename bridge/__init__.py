"""Log partitions, replicated to Apache Kafka: verbatim, idempotent, resumed by asking Kafka.

    bridge = Bridge(log, committer, UpstreamConfig(name="main", bootstrap=parse_upstream_url(url)))
    await bridge.start()        # an upstream that is not there yet is no error
    bridge.status()             # lag, state and what to do, by partition; connected or not
    await bridge.stop()         # bounded; cursors are durable when it returns

The upstream's name is its cursors' name in the log: give it to `Log.open` in `required_cursors`.

`Bridge` is imported when it is first asked for: Kafka's schemas and client take 10 MiB or more, and
a third of a gateway's time to start, which one without an upstream, or `check-config`, can do
without.
"""

from typing import TYPE_CHECKING

from bridge.config import Address, Security, UpstreamConfig, parse_upstream_url
from bridge.errors import BridgeError, ConfigError
from bridge.framing import RESENT_HEADER, TIMESTAMP_HEADER
from bridge.limits import BridgeLimits
from bridge.status import BridgeStatus, PartitionStatus

if TYPE_CHECKING:
    from bridge.bridge import Bridge

__all__ = [
    "RESENT_HEADER",
    "TIMESTAMP_HEADER",
    "Address",
    "Bridge",
    "BridgeError",
    "BridgeLimits",
    "BridgeStatus",
    "ConfigError",
    "PartitionStatus",
    "Security",
    "UpstreamConfig",
    "parse_upstream_url",
]


def __getattr__(name: str) -> object:
    if name == "Bridge":
        from bridge.bridge import Bridge

        return Bridge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
