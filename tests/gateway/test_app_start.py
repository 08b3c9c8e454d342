"""gateway/app.py: signals that come while it starts, and upstreams that do not start."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.config import Address, UpstreamConfig
from gateway.app import Gateway
from gateway.config import GatewayConfig
from gateway.urls import is_loopback
from tests.rigs import GatewayProcess

_SIGNAL_DURING_RECOVERY = """
import os, signal, sys
from pathlib import Path
import gateway.app as app
from bridge.config import Address
from gateway.config import GatewayConfig

config = GatewayConfig(data=Path(sys.argv[1]), listen=Address(host="127.0.0.1", port=0))
open_log = app.open_log

def interrupted(config):
    os.kill(os.getpid(), signal.Signals[sys.argv[2]])
    return open_log(config)

def reload():
    print("read again", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    return config

app.open_log = interrupted
app.run_gateway(config, reload=reload)
"""


_SIGHUP_BEFORE_THE_LOOP = """
import os, signal, sys
from pathlib import Path
import gateway.cli as cli

set_up_logging, load = cli._set_up_logging, cli.load

def interrupted(config):
    set_up_logging(config)
    os.kill(os.getpid(), signal.SIGHUP)
    cli.load = read_again

def read_again(flags, *, default_data):
    print("read again", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    return load(flags, default_data=default_data)

cli._set_up_logging = interrupted
cli.run(listen="mqtt://127.0.0.1:0", data=Path(sys.argv[1]))
"""


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )


def test_sighup_during_recovery_is_remembered(tmp_path: Path) -> None:
    done = run_script(_SIGNAL_DURING_RECOVERY, str(tmp_path / "data"), "SIGHUP")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ready mqtt://")
    assert done.stdout.endswith("read again\n")


def test_sighup_before_there_is_a_loop_is_remembered(tmp_path: Path) -> None:
    done = run_script(_SIGHUP_BEFORE_THE_LOOP, str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("read again\n")


def test_sigterm_during_recovery_ends_it_without_a_readiness_line(tmp_path: Path) -> None:
    done = run_script(_SIGNAL_DURING_RECOVERY, str(tmp_path / "data"), "SIGTERM")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


async def test_an_upstream_that_does_not_start_leaves_the_others_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (
        UpstreamConfig(name=name, bootstrap=(Address(host="a", port=1),)) for name in ("one", "two")
    )
    config = GatewayConfig(data=tmp_path)
    gateway = Gateway(config, reload=lambda: replace(config))
    tried: list[str] = []

    async def start(self: Gateway, upstream: UpstreamConfig) -> None:
        tried.append(upstream.name)
        if upstream is one:
            raise OSError("no room")
        self._bridges[upstream.name] = object()  # type: ignore[assignment]

    monkeypatch.setattr(Gateway, "_start_bridge", start)
    await gateway._change_bridges((), (one, two))
    assert tried == ["one", "two"]
    assert "gateway.upstream_not_started upstream=one" in caplog.text
    await gateway._change_bridges((one, two), (one, two))
    assert tried == ["one", "two", "one"]


def test_listening_to_the_network_is_warned_of(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path / "data") as gateway:
        assert "gateway.open_to_the_network" not in gateway.output_since_start()
        assert gateway.terminate() == 0
        gateway._flags[1] = f"mqtt://0.0.0.0:{gateway.port}"
        gateway.start()
        assert "gateway.open_to_the_network" in gateway.output_since_start()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("gateway.example", False),
    ],
)
def test_loopback_is_this_machine_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
