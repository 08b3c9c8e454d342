"""Why the gateway does not start, or ends.

    GatewayError
    ├── UsageInvalid        what the person asked for cannot be: exit status 2
    │   ├── UrlInvalid          a --listen or --upstream address
    │   └── ConfigInvalid       a configuration file, with every problem found in it
    └── StartFailed         this machine's state is in the way: exit status 1
        ├── ListenFailed        the address is taken, not ours, or not allowed
        ├── ListenerFileUnusable  a certificate, key or password file of a listener
        └── DataUnusable        the data directory cannot be written, or another gateway has it

Every message is a sentence a person can act on: what is wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class GatewayError(Exception):
    """Root of what the gateway says to a person before it ends with `exit_status`."""

    exit_status: ClassVar[int] = 1


class UsageInvalid(GatewayError):
    """The command line or the configuration asks for something that cannot be."""

    exit_status: ClassVar[int] = 2


class UrlInvalid(UsageInvalid):
    """An address that is no address, or of a kind this release does not speak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in a configuration file."""

    place: str
    """File, line where it is known, and table."""
    line: int | None = None
    wrong: str
    right: str

    def __str__(self) -> str:
        return f"{self.place}: {self.wrong}. {self.right}"


class ConfigInvalid(UsageInvalid):
    """A configuration file that cannot be used; `problems` has everything found, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class StartFailed(GatewayError):
    """What was asked for is sound, but cannot be had on this machine now."""


class ListenFailed(StartFailed):
    """The listen address cannot be bound."""


class ListenerFileUnusable(StartFailed):
    """`key` names the file's key in the listener's table; the rest as in Problem."""

    def __init__(self, key: str, wrong: str, right: str) -> None:
        super().__init__(f"{wrong}. {right}")
        self.key = key
        self.wrong = wrong
        self.right = right


class DataUnusable(StartFailed):
    """The data directory cannot be opened."""
