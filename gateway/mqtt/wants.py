"""What those who read from the log want of it, as one selection for all of them.

Owns that selection and for whom it is right. Asking for every topic of the log again whenever one
more begins to read would take longer than reading: a thousand return within a second or two. So
those who come while others read wait until `_RENEW_MS` have passed, or nobody else can go on. Of
those who stop reading the selection keeps what they wanted: it finds too much then, never too
little.
"""

from collections.abc import Collection

from gateway.mqtt.session import Session
from gateway.mqtt.sessions import SessionTable
from log import Selection

_RENEW_MS = 250


class Wants:
    def __init__(self, sessions: SessionTable) -> None:
        self._tree = sessions.reading_tree
        self.selection = Selection(self._is_wanted)
        self.sessions: set[Session] = set()
        """Whose wants are all in the selection."""
        self._renewed_ms = 0

    def _is_wanted(self, topic: bytes) -> bool:
        return bool(self._tree.match(topic.decode(errors="replace")))

    def can_wait(self, session: Session, now_ms: int) -> bool:
        """Whether it is better to read for another one first, if there is one."""
        return session not in self.sessions and now_ms - self._renewed_ms < _RENEW_MS

    def include(self, session: Session, reading: Collection[Session], now_ms: int) -> None:
        """The selection is right for it, and then for all others who read, too."""
        if session not in self.sessions:
            self.selection = Selection(self._is_wanted)
            self.sessions = set(reading)
            self._renewed_ms = now_ms

    def changed(self, session: Session) -> None:
        """It has other subscriptions, or begins."""
        self.sessions.discard(session)

    def clear(self) -> None:
        """Nobody reads."""
        self.selection = Selection(self._is_wanted)
        self.sessions = set()
        self._renewed_ms = 0
