"""Apache Kafka in KRaft mode on loopback: one node, or three, that can be killed and restarted.

The jars come from Maven Central by the pom beside this file, once, into the checkout's .cache.
Every node has two client listeners: `bootstrap` for judges, and `uplink_bootstrap`, which goes
through one TcpProxy a node (`uplinks`), also for the addresses that the node advertises. So a test
cuts the uplink of a gateway and still reads what is upstream.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.rigs.ports import free_port, wait_for
from tests.rigs.proxy import TcpProxy

KAFKA_VERSION = "4.3.0"
_POM = Path(__file__).with_name("pom.xml")
_CHECKOUT = _POM.parents[2]
_JARS = _CHECKOUT / ".cache" / f"kafka-{KAFKA_VERSION}"

_LOG4J = """\
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c)%n
"""


class KafkaFailed(Exception):
    """A tool or a node of Apache Kafka ended with an error; the text has its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


def jars() -> Path:
    """The folder of Kafka's jars, fetched with Maven when it is not there yet."""
    done = _JARS / "lib"
    if done.is_dir():
        return done
    _JARS.mkdir(parents=True, exist_ok=True)
    with (_JARS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_dir():
            return done
        partial = _JARS / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies"]
        _run([*command, f"-DoutputDirectory={partial}"], timeout=600)
        partial.rename(done)
    return done


def _run(command: Sequence[str], *, timeout: float, cwd: Path | None = None) -> str:
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, cwd=cwd
    )
    output = finished.stdout.decode(errors="replace")
    if finished.returncode != 0:
        raise KafkaFailed(f"{' '.join(command)[:300]}: exit {finished.returncode}\n{output}")
    return output


class _Node:
    """One broker and controller: its ports, its folder and, while it runs, its process."""

    def __init__(self, directory: Path, number: int, heap_mb: int) -> None:
        self.number = number
        self.directory = directory / f"node-{number}"
        self.client_port, self.uplink_port, self.controller_port = (
            free_port(),
            free_port(),
            free_port(),
        )
        self.heap_mb = heap_mb
        self.uplink = TcpProxy(self.uplink_port)
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, voters: str, extra: dict[str, str], node_count: int) -> None:
        replicas = str(node_count)
        in_sync = str(max(1, node_count - 1))
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.client_port},"
            f"UPLINK://127.0.0.1:{self.uplink_port},"
            f"CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.client_port},"
            f"UPLINK://127.0.0.1:{self.uplink.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,UPLINK:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A killed node is noticed in 3 s, not in 9: the tests wait for that.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            # Producers are forgotten after a day, as everywhere; but a test that shortens the day
            # does not wait ten minutes for the broker to look.
            "producer.id.expiration.check.interval.ms": "300",
            **extra,
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = [f"{key}={value}\n" for key, value in settings.items()]
        (self.directory / "server.properties").write_text("".join(lines))
        (self.directory / "log4j2.properties").write_text(_LOG4J)

    def java(self, main: str, *arguments: str, heap_mb: int) -> list[str]:
        return [
            "java",
            f"-Xmx{heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}",
            "-cp",
            f"{jars()}/*",
            main,
            *arguments,
        ]

    def format(self, cluster_id: str) -> None:
        config = str(self.directory / "server.properties")
        arguments = ("format", "-t", cluster_id, "-c", config)
        _run(self.java("kafka.tools.StorageTool", *arguments, heap_mb=128), timeout=60)

    def launch(self) -> None:
        config = str(self.directory / "server.properties")
        command = self.java("kafka.Kafka", config, heap_mb=self.heap_mb)
        with (self.directory / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def send(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def reap(self, timeout: float) -> None:
        if self.process is not None:
            self.process.wait(timeout)
            self.process = None

    def output_tail(self) -> str:
        log = self.directory / "output.log"
        return log.read_text(errors="replace")[-4000:] if log.exists() else ""


class KafkaCluster:
    """`node_count` nodes (1 or 3), numbered from 1. With 3, topics have 3 replicas, 2 in sync."""

    def __init__(
        self,
        directory: Path,
        node_count: int = 1,
        *,
        heap_mb: int | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.node_count = node_count
        self._settings = settings or {}
        heap = heap_mb or (512 if node_count == 1 else 384)
        self._nodes = {
            number: _Node(directory, number, heap) for number in range(1, node_count + 1)
        }
        self._admin_client: AdminClient | None = None

    @property
    def bootstrap(self) -> str:
        """Addresses that no proxy touches."""
        return ",".join(f"127.0.0.1:{node.client_port}" for node in self._nodes.values())

    @property
    def uplink_bootstrap(self) -> str:
        """Addresses whose every connection goes through a proxy of `uplinks`."""
        return ",".join(f"127.0.0.1:{node.uplink.port}" for node in self._nodes.values())

    @property
    def uplinks(self) -> tuple[TcpProxy, ...]:
        return tuple(node.uplink for node in self._nodes.values())

    def cut_uplink(self) -> None:
        for each in self.uplinks:
            each.cut()

    def blackhole_uplink(self) -> None:
        for each in self.uplinks:
            each.blackhole()

    def restore_uplink(self) -> None:
        for each in self.uplinks:
            each.restore()

    def start(self) -> None:
        """Formats the nodes the first time, starts them, and waits until all are in the cluster."""
        jars()
        voters = ",".join(
            f"{node.number}@127.0.0.1:{node.controller_port}" for node in self._nodes.values()
        )
        cluster_id = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()
        while cluster_id.startswith("-"):
            cluster_id = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()
        atexit.register(self._kill_all)
        for node in self._nodes.values():
            if not (node.directory / "data" / "meta.properties").exists():
                node.configure(voters, self._settings, self.node_count)
                node.format(cluster_id)
            node.launch()
        self.wait_until_ready()

    def wait_until_ready(self, *, timeout: float = 90.0) -> None:
        """Waits until every running node is registered and answers."""
        running = {number for number, node in self._nodes.items() if node.process is not None}

        def all_there() -> bool:
            for number in running:
                process = self._nodes[number].process
                if process is not None and process.poll() is not None:
                    tail = self._nodes[number].output_tail()
                    raise KafkaFailed(f"node {number} ended with {process.returncode}\n{tail}")
            try:
                return running <= set(self.admin().list_topics(timeout=2).brokers)
            except KafkaException:
                return False

        wait_for(all_there, timeout=timeout, what=f"Kafka nodes {sorted(running)}", every=0.2)

    def admin(self) -> AdminClient:
        if self._admin_client is None:
            quiet = {"log_level": 0, "socket.connection.setup.timeout.ms": 2000}
            self._admin_client = AdminClient({"bootstrap.servers": self.bootstrap, **quiet})
        return self._admin_client

    def kill(self, number: int) -> None:
        """SIGKILL; the node stays dead until `restart`."""
        self._nodes[number].send(signal.SIGKILL)
        self._nodes[number].reap(10)

    def restart(self, number: int) -> None:
        """Starts a killed node again with what is on its disk, and waits until it is back."""
        self._nodes[number].launch()
        self.wait_until_ready()

    def freeze(self, number: int) -> None:
        """SIGSTOP: the node keeps its connections and answers nothing."""
        self._nodes[number].send(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        self._nodes[number].send(signal.SIGCONT)

    def stop(self) -> None:
        """Ends all nodes, by SIGTERM first."""
        for node in self._nodes.values():
            node.send(signal.SIGCONT)
            node.send(signal.SIGTERM)
        deadline = time.monotonic() + 10
        for node in self._nodes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.reap(max(0.1, deadline - time.monotonic()))
        self._kill_all()
        for node in self._nodes.values():
            node.uplink.close()
        atexit.unregister(self._kill_all)

    def _kill_all(self) -> None:
        for node in self._nodes.values():
            node.send(signal.SIGKILL)
            node.reap(10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def create_topic(
        self, topic: str, partition_count: int, *, settings: dict[str, str] | None = None
    ) -> None:
        """Creates a topic with the cluster's replication and waits until all leaders are known."""
        new = NewTopic(topic, partition_count, self.node_count, config=settings or {})
        for future in self.admin().create_topics([new]).values():
            future.result()

        def led() -> bool:
            state = self.describe(topic)
            return len(state) == partition_count and all(p.leader > 0 for p in state.values())

        wait_for(led, timeout=30, what=f"leaders of {topic}")

    def delete_topic(self, topic: str) -> None:
        for future in self.admin().delete_topics([topic]).values():
            future.result()

    def describe(self, topic: str) -> dict[int, PartitionState]:
        """Leader, replicas and in-sync replicas of each partition; {} when there is no topic."""
        found = self.admin().list_topics(timeout=10).topics.get(topic)
        if found is None or found.error is not None:
            return {}
        return {
            number: PartitionState(
                leader=partition.leader,
                replicas=tuple(sorted(partition.replicas)),
                in_sync=tuple(sorted(partition.isrs)),
            )
            for number, partition in found.partitions.items()
        }

    def data_directory(self, number: int = 1) -> Path:
        return self._nodes[number].directory / "data"

    def dump_log(
        self, files: Iterable[Path], *, index_sanity: bool = False, timeout: float = 300.0
    ) -> str:
        """DumpLogSegments of Apache Kafka over the files: its whole output.

        `--deep-iteration --print-data-log`, or for index files `--index-sanity-check`.
        """
        return dump_log(self.directory, files, index_sanity=index_sanity, timeout=timeout)


def dump_log(
    directory: Path, files: Iterable[Path], *, index_sanity: bool = False, timeout: float = 300.0
) -> str:
    """`KafkaCluster.dump_log` where no cluster runs; `directory` gets its logger's settings."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = directory / "log4j2.properties"
    settings.write_text(_LOG4J)
    how = ["--index-sanity-check"] if index_sanity else ["--deep-iteration", "--print-data-log"]
    command = [
        "java",
        "-Xmx512m",
        f"-Dlog4j2.configurationFile={settings}",
        "-cp",
        f"{jars()}/*",
        "org.apache.kafka.tools.DumpLogSegments",
        *how,
        "--files",
        ",".join(str(file) for file in files),
    ]
    return _run(command, timeout=timeout)
