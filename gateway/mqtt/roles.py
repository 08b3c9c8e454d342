"""What the broker needs of others: who commits its rounds, who wants to know about clients."""

from collections.abc import Callable
from typing import Protocol


class Committer(Protocol):
    """What the broker needs of `log.Committer`."""

    @property
    def congested(self) -> bool: ...
    def request(self) -> None: ...
    def request_later(self) -> None: ...
    def add_preparer(self, callback: Callable[[], None]) -> None: ...
    def on_relief(self, callback: Callable[[], None]) -> None: ...
    async def flush(self) -> None: ...


class Listener(Protocol):
    """Who wants to know about clients; called in the loop's thread, must return at once."""

    def client_connected(self, client_id: str, *, level: int, peer: str, keep_alive_s: int) -> None:
        """After CONNACK was given away for sending."""

    def client_disconnected(self, client_id: str, *, clean: bool) -> None:
        """`clean`: by DISCONNECT. Not called when the client is taken over by itself."""

    def message_seen(self, client_id: str, topic: str, payload: bytes) -> None:
        """A sample: at most one message per client and sweep (about a second)."""


class NoListener:
    def client_connected(self, client_id: str, *, level: int, peer: str, keep_alive_s: int) -> None:
        pass

    def client_disconnected(self, client_id: str, *, clean: bool) -> None:
        pass

    def message_seen(self, client_id: str, topic: str, payload: bytes) -> None:
        pass
