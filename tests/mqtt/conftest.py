"""What every test of MQTT leaves behind is closed."""

from collections.abc import Iterator

import pytest

from tests.mqtt.world import OPEN_WORLDS


@pytest.fixture(autouse=True)
def closed_worlds() -> Iterator[None]:
    """paho's select() takes no descriptor above 1,023, and a world has a dozen."""
    yield
    for world in list(OPEN_WORLDS):
        world.close()
