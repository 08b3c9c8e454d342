"""What recovery found, as a value: logged and shown, never a reason to stop."""

from __future__ import annotations

from dataclasses import dataclass, field

from log.journal import Damage


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Offsets of a partition, both included, that were acknowledged and cannot be read any more.

    Where the cause is a damaged journal, nobody can say how many there were: then it is the most
    there can have been. The offsets are not given again.
    """

    stream: str
    partition: int
    first_offset: int
    last_offset: int
    cause: str


@dataclass(slots=True, kw_only=True)
class RecoveryReport:
    """What recovery found. `clean` when nothing but whole frames and batches."""

    checkpoint_found: bool = False
    frames_replayed: int = 0
    records_replayed: int = 0
    torn_frame: bool = False
    state_lost: bool = False
    """Cursors, sessions and the like may be missing, or older than they were."""
    checkpoint_problems: list[str] = field(default_factory=list)
    partition_problems: list[str] = field(default_factory=list)
    journal_damage: list[Damage] = field(default_factory=list)
    segments_cut: list[str] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.torn_frame or self.lines())

    def lines(self) -> list[str]:
        """One sentence for each thing an operator should know."""
        out = [f"checkpoint damaged or missing: {problem}" for problem in self.checkpoint_problems]
        out += self.partition_problems
        out += [
            f"journal damaged: frames {damage.first_sequence}..{damage.next_sequence - 1}"
            f" at position {damage.position} do not hold their checksum"
            for damage in self.journal_damage
        ]
        if self.state_lost:
            out.append(
                "state lost: what was sent already cannot be known for sure, and may be sent again,"
                " marked"
            )
        out += self.segments_cut
        out += [
            f"lost: {lost.stream}-{lost.partition} offsets {lost.first_offset}"
            f"..{lost.last_offset} ({lost.cause})"
            for lost in self.lost
        ]
        return out
