"""Fixtures of every test: brokers that are started once, and what happens where tools are missing.

`kafka` and `kafka3` are shared by the whole run: a test uses topics of its own names, and whoever
kills or freezes a node brings it back.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs import KafkaCluster, Mosquitto
from tests.rigs.needs import require, require_marked

# Python itself only unwinds on SIGINT; the brokers must end on a time-out's SIGTERM, too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    require_marked(item)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One Apache Kafka node."""
    require("kafka")
    with KafkaCluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kafka3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three Apache Kafka nodes; topics have three replicas of which two must be in sync."""
    require("kafka")
    with KafkaCluster(tmp_path_factory.mktemp("kafka3"), node_count=3) as cluster:
        yield cluster


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    require("mosquitto")
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.stop()
