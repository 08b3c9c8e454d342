"""gateway/places.py: what the log is told of streams and upstreams."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.bridge import shipped_partitions
from bridge.config import Address, UpstreamConfig
from gateway.config import GatewayConfig
from gateway.errors import ListenFailed
from gateway.mqtt.dead_letters import DEAD_LETTERS
from gateway.places import bind, open_log, stream_specs
from log.streams import StreamSpec

BOOTSTRAP = (Address(host="a", port=1),)
CONFIG = GatewayConfig(data=Path("/data"), streams=(StreamSpec(name="one"), StreamSpec(name="two")))


def replicated_by(*upstreams: UpstreamConfig) -> list[set[str]]:
    specs = stream_specs(replace(CONFIG, upstreams=upstreams))
    return [set(spec.replicated_by or ()) for spec in specs]


def test_without_an_upstream_retention_waits_for_nobody() -> None:
    assert replicated_by() == [set(), set()]


def test_retention_waits_for_every_upstream_that_ships_the_stream_and_no_other() -> None:
    everything = UpstreamConfig(name="all", bootstrap=BOOTSTRAP)
    only_two = UpstreamConfig(name="some", bootstrap=BOOTSTRAP, streams=frozenset({"two"}))
    assert replicated_by(everything, only_two) == [{"all"}, {"all", "some"}]
    assert replicated_by(only_two) == [set(), {"some"}]


def test_log_knows_whose_cursor_a_partition_waits_for(tmp_path: Path) -> None:
    only_two = UpstreamConfig(name="some", bootstrap=BOOTSTRAP, streams=frozenset({"two"}))
    log = open_log(replace(CONFIG, data=tmp_path, upstreams=(only_two,)))
    assert log.replicated_to(log.partition("one", 0)) is None
    assert log.replicated_to(log.partition("two", 0)) == 0
    log.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_bound_socket_is_what_was_asked_for(host: str) -> None:
    with bind(Address(host=host, port=0)) as listener:
        assert listener.getsockname()[1] > 0
        assert not listener.getblocking()


def test_host_that_is_not_there_is_said() -> None:
    with pytest.raises(ListenFailed, match="no such host"):
        bind(Address(host="no-such-host.invalid", port=1))


def test_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenFailed, match=f"port {port} is in use by another program"):
            bind(Address(host="127.0.0.1", port=port))


def test_dead_letters_are_shipped_only_where_they_are_configured(tmp_path: Path) -> None:
    """A topic without {stream} would else be two streams' at once."""
    takes_all = UpstreamConfig(name="all", bootstrap=BOOTSTRAP)
    for number, extra in enumerate([(), (StreamSpec(name=DEAD_LETTERS, partition_count=1),)]):
        config = replace(
            CONFIG,
            data=tmp_path / str(number),
            streams=(*CONFIG.streams, *extra),
            upstreams=(takes_all,),
        )
        log = open_log(config)
        assert len(log.streams[DEAD_LETTERS].partitions) == 1
        shipped = {partition.stream for partition in shipped_partitions(log, takes_all)}
        assert shipped == {stream.name for stream in config.streams}
        log.close()
