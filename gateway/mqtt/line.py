"""Who reads from the log next.

Owns the line of sessions that have room for more. Sessions at the same place share what is read,
so those that are behind go first, and come to where the others are; but each fourth turn is the
longest waiter's: one that begins far back must not hold up all that are nearly live.
"""

from collections import deque

from gateway.mqtt.session import Session
from gateway.mqtt.wants import Wants

_FAIR_TURNS = 4


class Line:
    def __init__(self, wants: Wants) -> None:
        self._wants = wants
        self._sessions: deque[Session] = deque()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        self._sessions.append(session)

    def take(self, now_ms: int) -> Session:
        """The next one; there is one."""
        self._turn += 1
        first = self._sessions[0]
        if self._turn % _FAIR_TURNS == 0 and not self._wants.can_wait(first, now_ms):
            return self._sessions.popleft()
        can_wait = self._wants.can_wait
        found = min(self._sessions, key=lambda each: (can_wait(each, now_ms), _progress(each)))
        self._sessions.remove(found)
        return found


def _progress(session: Session) -> int:
    """How far it has read; what is to be sent again comes first."""
    reading = session.reading
    if reading is None or session.outbox.is_resending:
        return -1
    return sum(reading.positions.values())
