"""One world for each test: a broker with a real log, no sockets and no thread."""

from pathlib import Path

import pytest

from tests.mqtt.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
