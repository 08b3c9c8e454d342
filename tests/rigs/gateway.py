"""The gateway as a process of its own, so that a test can kill it as a power cut would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rigs.ports import free_port, wait_for

_READY = re.compile(r"^ready mqtt://(\S+):(\d+)", re.MULTILINE)
_CHECKOUT = Path(__file__).parents[2]


class GatewayFailed(Exception):
    """The gateway ended before it was ready; the text has its output."""


class GatewayProcess:
    """`sluicegate run` with a fixed free port, so that devices find it again after a restart.

    config: a TOML file, or None for the defaults. flags: further command line arguments.
    prefix: put before the command (taskset, strace ...).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        config: Path | None = None,
        upstream: str | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.output = data_dir.with_name(data_dir.name + ".output")
        self._flags = ["--listen", f"mqtt://127.0.0.1:{self.port}", "--data", str(data_dir)]
        if config is not None:
            self._flags += ["--config", str(config)]
        if upstream is not None:
            self._flags += ["--upstream", upstream]
        self._flags += flags
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._prefix = tuple(prefix)
        self._seen_bytes = 0
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Starts it without waiting until it is ready."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        self._seen_bytes = self.output.stat().st_size if self.output.exists() else 0
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "gateway", "run", *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=_CHECKOUT,
            )

    def start(self, *, timeout: float = 20.0) -> None:
        """Starts it and waits for its readiness line."""
        self.spawn()
        self.wait_until_ready(timeout=timeout)

    def wait_until_ready(self, *, timeout: float = 20.0) -> None:
        def ready() -> bool:
            if _READY.search(self.output_since_start()):
                return True
            if self.process is not None and self.process.poll() is not None:
                text = self.output_since_start()
                raise GatewayFailed(f"exit status {self.process.returncode}\n{text}")
            return False

        wait_for(ready, timeout=timeout, what="the gateway's readiness line", every=0.02)

    def output_since_start(self) -> str:
        """What this run printed, both streams."""
        with self.output.open("rb") as file:
            file.seek(self._seen_bytes)
            return file.read().decode(errors="replace")

    @property
    def pid(self) -> int:
        assert self.process is not None, "the gateway is not running"
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def wait(self, *, timeout: float = 15.0) -> int:
        """The exit status."""
        assert self.process is not None, "the gateway was not started"
        return self.process.wait(timeout)

    def terminate(self, *, timeout: float = 15.0) -> int:
        """SIGTERM; the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(timeout=timeout)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.kill()
