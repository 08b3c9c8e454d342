"""Free ports, and waiting for things with a deadline."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

# Below what the kernel gives to outgoing connections (32768 and up): a port picked there could be
# taken by any client before its server is started, or while it is dead.
_PORTS = range(10_000, 32_000)
_rng = random.SystemRandom()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on, and no outgoing connection will take."""
    while True:
        port = _rng.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for(
    condition: Callable[[], object], *, timeout: float, what: str, every: float = 0.05
) -> None:
    """Polls until the condition is true; raises TimeoutError that says what was waited for."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(every)


def wait_for_port(port: int, *, timeout: float = 10.0) -> None:
    """Waits until something accepts connections on the port."""

    def accepts() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(accepts, timeout=timeout, what=f"a listener on port {port}")
