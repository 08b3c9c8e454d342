"""No mutated packet raises what is not documented, hangs, or stays in memory.

A short form here. As many as one likes, and others each time, with

    FUZZ=1000000 .venv/bin/python -m pytest tests/fuzz -s

which is that many inputs on the codec, a tenth of them on connection cores, and a hundredth on a
gateway's port.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from random import Random, SystemRandom

import psutil
import pytest

from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import Connect
from tests.e2e.raw_mqtt import RawClient
from tests.fuzz.mutation import HANG_S, LEVELS, Hang, corpus, decode_all, mutated, watched
from tests.mqtt.world import World
from tests.rigs import GatewayProcess

_COUNT = int(os.environ.get("FUZZ", "20000"))
_SEED = 4 if "FUZZ" not in os.environ else SystemRandom().getrandbits(32)
_GROWTH_BYTES_MAX = 16 << 20
_WORLD_INPUTS = 2_000
"""A world is new after so many: what was stored in its log is memory that is meant to stay."""


def rss_bytes(pid: int | None = None) -> int:
    return int(psutil.Process(pid).memory_info().rss)


@pytest.mark.parametrize("level", LEVELS)
def test_the_codec_raises_documented_errors_only(level: int) -> None:
    rng = Random(_SEED + level)
    seeds = corpus(level)
    warm = _COUNT // 10
    before = decoded = 0
    for number in range(_COUNT // len(LEVELS)):
        if number == warm:
            before = rss_bytes()
        data = mutated(rng, seeds)
        try:
            with watched():
                decoded += decode_all(data, level)
        except (Exception, Hang) as error:
            pytest.fail(f"seed {_SEED}: {data.hex()}: {error!r}")
    assert decoded > _COUNT // 20, "the mutations leave too little to decode"
    assert rss_bytes() - before < _GROWTH_BYTES_MAX


@pytest.mark.parametrize("level", LEVELS)
def test_connection_cores_end_connections_and_nothing_else(level: int, tmp_path: Path) -> None:
    """After each input the broker lets a next client in, and keeps nothing of the one before."""
    rng = Random(_SEED + 10 + level)
    seeds = corpus(level)
    hello = encode_packet(
        Connect(level=level, client_id="f", clean_start=True, keep_alive_s=0), level
    )
    count = _COUNT // 10 // len(LEVELS)
    for start in range(0, count, _WORLD_INPUTS):
        world = World(tmp_path / str(start))
        for number in range(start, min(count, start + _WORLD_INPUTS)):
            data = mutated(rng, seeds)
            cut = rng.randrange(len(data) + 1)
            client = world.client(level)
            try:
                with watched():
                    if number % 4:
                        client.send_bytes(hello)
                    for part in (data[:cut], data[cut:]):
                        if part and not client.is_closed:
                            client.send_bytes(part)
                    world.commit()
                    client.lose()
                    world.commit()
            except (Exception, Hang) as error:
                pytest.fail(f"seed {_SEED}: {data.hex()} cut at {cut}: {error!r}")
        assert world.broker.connections == set()
        assert world.broker.partial_bytes == 0
        assert world.broker.inbox == []
        world.close()


def test_a_listener_takes_anything_and_goes_on(tmp_path: Path) -> None:
    rng = Random(_SEED + 20)
    count = _COUNT // 100
    with GatewayProcess(tmp_path / "gateway") as gateway:
        before = 0
        for number in range(count):
            level = rng.choice(LEVELS)
            data = mutated(rng, corpus(level))
            if number == count // 4:
                before = rss_bytes(gateway.pid)
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=HANG_S) as sock:
                hello = Connect(level=level, client_id="f", clean_start=True, keep_alive_s=0)
                if number % 4:
                    sock.sendall(encode_packet(hello, level))
                    sock.recv(1024)
                sock.sendall(data)
            # A good client is served, within the time-out of its socket.
            if number % 10 == 0:
                try:
                    with RawClient(gateway.port, timeout=HANG_S) as client:
                        client.connect("good", level)
                        client.publish("t", b"m", level, packet_id=1)
                except (AssertionError, OSError) as error:
                    pytest.fail(f"seed {_SEED}: after {data.hex()}: {error!r}")
        growth = rss_bytes(gateway.pid) - before
        assert gateway.terminate() == 0
        output = gateway.output_since_start()
    assert "Traceback" not in output
    assert growth < _GROWTH_BYTES_MAX, f"{growth:,} bytes more after {count:,} inputs"
