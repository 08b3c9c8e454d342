"""Topics as keys of an ordered table, and where in it a filter may still match.

A key is the topic with its separators as U+0000, which no topic has (1.5.3) and which is below
every character. So keys are ordered level by level, what is below a topic comes right behind it,
and a filter with wildcards is answered by seeks: from each key that does not match, `step` says
the least key that may.
"""

from collections.abc import Sequence


def key_of(topic: bytes) -> bytes:
    return topic.replace(b"/", b"\0")


def topic_of(key: bytes) -> bytes:
    return key.replace(b"\0", b"/")


def first_key(wanted: Sequence[bytes]) -> bytes:
    """The least key that the filter of these levels may match: what is before its wildcards."""
    fixed: list[bytes] = []
    for level in wanted:
        if level in (b"+", b"#"):
            break
        fixed.append(level)
    return b"\0".join(fixed)


def step(wanted: Sequence[bytes], key: bytes) -> tuple[bool, bytes | None]:
    """Whether the filter `wanted` matches `key`, and the least key behind it that may match; None
    if there is none."""
    if wanted[0] in (b"+", b"#") and key.startswith(b"$"):
        return False, b"%"  # [MQTT-4.7.2-1]; the character behind "$"
    levels = key.split(b"\0")
    last_one = -1
    for depth, level in enumerate(wanted):
        if level == b"#":
            return True, key + b"\0"  # the parent level itself too, 4.7.1.2
        if depth == len(levels):  # too short: what is below it may match
            return False, key + b"\0" + (b"" if level == b"+" else level)
        if level == b"+":
            last_one = depth
        elif level > levels[depth]:
            return False, b"\0".join((*levels[:depth], level))
        elif level < levels[depth]:
            return False, _behind(levels, last_one)
    # Nothing below a key as long as the filter matches.
    return len(levels) == len(wanted), _behind(levels, last_one)


def _behind(levels: Sequence[bytes], last_one: int) -> bytes | None:
    """Behind all keys that have these levels up to the last "+"; None: the filter has none."""
    if last_one < 0:
        return None
    return b"\0".join(levels[: last_one + 1]) + b"\1"
