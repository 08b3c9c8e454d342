"""Eclipse Mosquitto, to compare with and to check the fleet's clients against."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.rigs.needs import find_program
from tests.rigs.ports import free_port, wait_for_port

_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
log_dest none
user root
"""


class Mosquitto:
    """One broker without persistence and without limits on what is in flight.

    settings: further lines of its configuration.
    """

    def __init__(self, directory: Path, *, settings: str = "") -> None:
        self.directory = directory
        self._settings = settings
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, prefix: tuple[str, ...] = ()) -> None:
        """Starts it; `prefix` is put before the command (taskset and the like)."""
        program = find_program("mosquitto")
        if program is None:
            raise FileNotFoundError("mosquitto is not installed")
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "mosquitto.conf"
        config.write_text(_CONFIG.format(port=self.port) + self._settings)
        self.process = subprocess.Popen([*prefix, program, "-c", str(config)])
        wait_for_port(self.port)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None
