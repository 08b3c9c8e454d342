"""Peers of bench/ingest that no Debian package brings: `--nats` and `--rumqttd`.

They are looked for on the PATH and in .cache/peers/bin; how to get them is in docs/performance.md.
NATS is the one peer that syncs before it acknowledges, and only when it must store: so it has an
offline persistent session that subscribed. rumqttd keeps messages in memory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

from bench.load import build_load
from bench.machine import Cores
from bench.mqtt_probe import Probe
from tests.rigs.needs import find_program
from tests.rigs.ports import free_port, wait_for_port

_PEERS = Path(__file__).parents[1] / ".cache" / "peers" / "bin"
_EVERYTHING = "bench/#"
_PATIENCE_S = 10.0

_NATS_CONFIG = """\
server_name: bench
listen: "127.0.0.1:{client_port}"
http: "127.0.0.1:{http_port}"
jetstream {{ store_dir: "{store}", sync_interval: always }}
mqtt {{ listen: "127.0.0.1:{port}" }}
"""

_RUMQTTD_CONFIG = """\
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 0
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 20480
max_inflight_count = 1000
dynamic_filters = true
"""


def find_peer(name: str) -> str | None:
    path = shutil.which(name, path=str(_PEERS))
    return path or find_program(name)


class _Peer:
    """A server with a configuration file and a port; stores below `directory`."""

    def __init__(self, directory: Path, cores: Cores) -> None:
        self._directory = directory
        self._prefix = cores.pin_server()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def _spawn(self, program: str, config: str, *, preload: Path | None = None) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        path = self._directory / "peer.toml"
        path.write_text(config)
        found = find_peer(program)
        assert found is not None, "the caller has looked"
        environment = {**os.environ, **({"LD_PRELOAD": str(preload)} if preload else {})}
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [*self._prefix, found, "-c", str(path)],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for_port(self.port)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None
        shutil.rmtree(self._directory)


class NatsServer(_Peer):
    """nats-server with JetStream on disk, each message synced before it is acknowledged."""

    name = "nats, fsync each"

    def __init__(self, directory: Path, cores: Cores) -> None:
        super().__init__(directory / "nats", cores)
        self._http_port = free_port()

    def start(self) -> None:
        config = _NATS_CONFIG.format(
            client_port=free_port(),
            http_port=self._http_port,
            port=self.port,
            store=self._directory / "store",
        )
        self._spawn("nats-server", config)
        with Probe(self.port, "away", is_clean=False) as probe:
            probe.subscribe(_EVERYTHING, qos=1)

    def finish(self, expected_count: int) -> int:
        deadline = time.monotonic() + _PATIENCE_S
        while (count := self._stored()) < expected_count and time.monotonic() < deadline:
            time.sleep(0.2)
        self.stop()
        return count

    def _stored(self) -> int:
        url = f"http://127.0.0.1:{self._http_port}/jsz?streams=true"
        with urllib.request.urlopen(url, timeout=10) as answer:
            accounts = json.load(answer)["account_details"]
        return sum(
            int(stream["state"]["messages"])
            for account in accounts
            for stream in account["stream_detail"]
            if stream["name"] == "$MQTT_msgs"
        )


class RumqttdServer(_Peer):
    """rumqttd, in memory, with TCP_NODELAY, which it has no setting for."""

    name = "rumqttd, memory"

    def __init__(self, directory: Path, cores: Cores) -> None:
        super().__init__(directory / "rumqttd", cores)
        self._preload = build_load(directory.parent, "nodelay", is_library=True)

    def start(self) -> None:
        self._spawn("rumqttd", _RUMQTTD_CONFIG.format(port=self.port), preload=self._preload)

    def finish(self, expected_count: int) -> int:
        """It counts for nobody: what it acknowledged is believed."""
        self.stop()
        return expected_count
