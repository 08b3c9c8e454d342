"""Log partitions, replicated to Apache Kafka: verbatim, idempotent, resumed by asking Kafka.

    bridge = Bridge(log, committer, UpstreamConfig(name="main", bootstrap=parse_upstream_url(url)))
    await bridge.start()        # an upstream that is not there yet is no error bridge.status()
    # lag, state and what to do, by partition; truthfully connected or not await bridge.stop()
    # bounded; cursors are durable when it returns

The upstream's name is its cursors' name in the log: give it to `Log.open` in `required_cursors`.
"""

from bridge.bridge import Bridge
from bridge.config import Address, Security, UpstreamConfig, parse_upstream_url
from bridge.errors import BridgeError, ConfigError
from bridge.framing import RESENT_HEADER, TIMESTAMP_HEADER
from bridge.limits import BridgeLimits
from bridge.status import BridgeStatus, PartitionStatus

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
