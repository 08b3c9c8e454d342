"""gateway/cli.py as a person meets it: sentences and exit statuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import GatewayConfig
from gateway.errors import DataUnusable
from gateway.places import open_log
from tests.rigs import GatewayProcess


def sluicegate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
    )


def test_version_is_printed() -> None:
    done = sluicegate("--version")
    assert (done.returncode, done.stdout) == (0, "0.1.0\n")


def test_check_config_says_sound_and_what_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[upstream.central]\nurl = "kafka://a:1,b:2"\n')
    done = sluicegate("check-config", str(file))
    assert done.returncode == 0
    assert "is sound" in done.stdout
    assert "central, kafka://a:1,b:2" in done.stdout


def test_check_config_says_what_is_wrong_where_and_what_would_be_right(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[stream.mqtt]\npartition = 4\n")
    done = sluicegate("check-config", str(file))
    assert done.returncode == 2
    assert f"{file}:2, in [stream.mqtt]" in done.stderr
    assert "unknown key 'partition'" in done.stderr
    assert "Did you mean 'partitions'?" in done.stderr


def test_check_config_prints_a_file_s_name_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "[x].toml"
    file.write_text("")
    assert f"{file} is sound" in sluicegate("check-config", str(file)).stdout


def test_wrong_key_in_the_config_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("listne = 3\n")
    done = sluicegate("run", "--config", str(file), "--data", str(tmp_path / "data"))
    assert done.returncode == 2
    assert "Did you mean 'listen'?" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--lisen", "mqtt://x"), "--listen"),
        (("run", "--listen", "http://x"), "Write it as mqtt://127.0.0.1:1883"),
        (("run", "--upstream", "broker:9092"), "Write it as kafka://"),
        (("check-config",), "FILE"),
        (("serve",), "serve"),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...], said: str) -> None:
    done = sluicegate(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_is_said_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = sluicegate("run", "--listen", f"mqtt://127.0.0.1:{port}", "--data", str(tmp_path))
    assert done.returncode == 1
    assert f"port {port} is in use by another program" in done.stderr
    assert "--listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_address_of_another_machine_is_said(tmp_path: Path) -> None:
    done = sluicegate("run", "--listen", "mqtt://192.0.2.1:1883", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "this machine has no such address" in done.stderr


def test_data_directory_of_a_running_gateway_is_said(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path / "data"):
        done = sluicegate("run", "--listen", "mqtt://127.0.0.1:0", "--data", str(tmp_path / "data"))
    assert done.returncode == 1
    assert "is in use by another gateway" in done.stderr
    assert "--data" in done.stderr


def test_data_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = tmp_path / "file" / "data"
    done = sluicegate("run", "--listen", "mqtt://127.0.0.1:0", "--data", str(data))
    assert done.returncode == 1
    assert f"the data directory {data} cannot be made (Not a directory)" in done.stderr


def test_data_directory_without_permission_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the answer of the system is made up.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataUnusable, match="cannot be written by this user"):
        open_log(GatewayConfig(data=tmp_path))


def test_state_directory_of_the_supervisor_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = sluicegate(
        "run", "--listen", "mqtt://127.0.0.1:0", STATE_DIRECTORY=str(tmp_path / "file" / "state")
    )
    assert done.returncode == 1
    assert f"the data directory {tmp_path}/file/state cannot be made" in done.stderr
