"""One world for each test: a broker with a real log, no sockets and no thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mqtt.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()
