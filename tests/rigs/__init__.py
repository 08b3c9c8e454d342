"""What the tests and benchmarks run against: real brokers, a breakable link, whole processes.

Everything here blocks, listens on 127.0.0.1 only, picks free ports, and ends what it started.
An asyncio test calls the slow ones through `asyncio.to_thread`.
"""

from tests.rigs.gateway import GatewayFailed, GatewayProcess
from tests.rigs.kafka import KafkaCluster, KafkaFailed, PartitionState, dump_log, jars
from tests.rigs.mosquitto import Mosquitto
from tests.rigs.needs import missing_for, need_java, need_mosquitto, need_node, need_strace
from tests.rigs.ports import free_port, wait_for, wait_for_port
from tests.rigs.proxy import TcpProxy
from tests.rigs.upstream import UpstreamRecord, default_partitions, read_topic

__all__ = [
    "GatewayFailed",
    "GatewayProcess",
    "KafkaCluster",
    "KafkaFailed",
    "Mosquitto",
    "PartitionState",
    "TcpProxy",
    "UpstreamRecord",
    "default_partitions",
    "dump_log",
    "free_port",
    "jars",
    "missing_for",
    "need_java",
    "need_mosquitto",
    "need_node",
    "need_strace",
    "read_topic",
    "wait_for",
    "wait_for_port",
]
