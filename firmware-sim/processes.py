"""Subprocesses of the demo: started, watched, and never left behind.

Owns their ends. Each is in a session of its own, so that Ctrl-C reaches only the demo, which then
stops them in order; and each dies with the demo, should that be killed (Linux parent-death signal).
"""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from errors import StartError

PR_SET_PDEATHSIG = 1
LOG_TAIL_BYTES = 2000


class Child:
    """One process, its output in a file."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_position = 0

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, or start again. Raises StartError."""
        try:
            with self.log.open("ab") as output:
                self._log_position = output.tell()
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                    env=self._env,
                )
        except OSError as error:
            raise StartError(f"{self.name}: {self._command[0]}: {error.strerror}") from error

    def wait_for_port(self, port: int, timeout_s: float) -> None:
        """Until something listens there. Raises StartError with the end of the output."""
        self._wait(lambda: _accepts(port), f"listen on port {port}", timeout_s)

    def wait_for_output(self, text: str, timeout_s: float) -> None:
        """Until it has written that, since it was last started. Raises StartError."""
        self._wait(lambda: text.encode() in self._output(), f"say {text!r}", timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def terminate(self, timeout_s: float) -> int | None:
        """SIGTERM, and SIGKILL after the time. The exit status; None if it had to be killed."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def output_tail(self) -> str:
        """The last lines it wrote."""
        return self._output()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")

    def _output(self) -> bytes:
        return self.log.read_bytes()[self._log_position :]

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if not self.is_running():
                raise StartError(f"{self.name} ended while starting:\n{self.output_tail()}")
            if time.monotonic() > deadline_s:
                raise StartError(
                    f"{self.name} did not {what} within {timeout_s:.0f} s:\n{self.output_tail()}"
                )
            time.sleep(0.02)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
