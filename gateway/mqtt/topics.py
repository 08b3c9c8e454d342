"""Topic names, topic filters, and the tree that finds the filters matching a name.

Owns the rules of section 4.7 (both versions). Never decides who may subscribe to what.

The tree has a node for each level of each filter. `+` and `#` are children like others, under
their own names; matching walks all the branches a name can take, so it costs levels times
branches, not the number of subscriptions. `version` grows with every change: who caches a
match keeps the version it was made at.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from gateway.mqtt.errors import TopicFilterInvalid, TopicNameInvalid

TOPIC_BYTES_MAX = 65_535
# A deep topic costs a node a level in the tree; CVE-2019-11779 was 65,400 levels of recursion.
TOPIC_LEVELS_MAX = 200

K = TypeVar("K")
V = TypeVar("V")


def check_topic_name(
    topic: str, *, bytes_max: int = TOPIC_BYTES_MAX, levels_max: int = TOPIC_LEVELS_MAX
) -> None:
    """Raises TopicNameInvalid for what must not stand in a PUBLISH."""
    if not topic:
        raise TopicNameInvalid("empty topic name")  # [MQTT-4.7.3-1]
    if "+" in topic or "#" in topic:
        raise TopicNameInvalid("wildcard in a topic name")  # [MQTT-3.3.2-2]
    if "\0" in topic:
        raise TopicNameInvalid("U+0000 in a topic name")  # [MQTT-4.7.3-2]
    if len(topic.encode(errors="surrogatepass")) > bytes_max:
        raise TopicNameInvalid(f"topic name over {bytes_max} bytes")  # [MQTT-4.7.3-3]
    if topic.count("/") >= levels_max:
        raise TopicNameInvalid(f"topic name over {levels_max} levels")


def check_topic_filter(
    topic_filter: str, *, bytes_max: int = TOPIC_BYTES_MAX, levels_max: int = TOPIC_LEVELS_MAX
) -> None:
    """Raises TopicFilterInvalid for what is no topic filter."""
    if not topic_filter:
        raise TopicFilterInvalid("empty topic filter")
    if "\0" in topic_filter:
        raise TopicFilterInvalid("U+0000 in a topic filter")
    if len(topic_filter.encode(errors="surrogatepass")) > bytes_max:
        raise TopicFilterInvalid(f"topic filter over {bytes_max} bytes")
    if topic_filter.count("/") >= levels_max:
        raise TopicFilterInvalid(f"topic filter over {levels_max} levels")
    levels = topic_filter.split("/")
    for level in levels:
        if len(level) > 1 and ("+" in level or "#" in level):
            # [MQTT-4.7.1-2], [MQTT-4.7.1-3] / 5.0 [MQTT-4.7.1-1], [MQTT-4.7.1-2]
            raise TopicFilterInvalid("a wildcard must occupy a whole level")
    if "#" in levels[:-1]:
        raise TopicFilterInvalid("# must be the last level")


def is_shared(topic_filter: str) -> bool:
    return topic_filter.startswith("$share/")


class _Node(Generic[K, V]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[K, V]] = {}
        self.values: dict[K, V] = {}


class FilterTree(Generic[K, V]):
    """Values of type V under (filter, key); `match` finds all whose filter matches a name."""

    def __init__(self) -> None:
        self._root: _Node[K, V] = _Node()
        self._count = 0
        self.version = 0

    def __len__(self) -> int:
        return self._count

    def add(self, topic_filter: str, key: K, value: V) -> bool:
        """True when (filter, key) is new, False when its value was replaced."""
        node = self._root
        for level in topic_filter.split("/"):
            node = node.children.setdefault(level, _Node())
        is_new = key not in node.values
        node.values[key] = value
        self._count += is_new
        self.version += 1
        return is_new

    def remove(self, topic_filter: str, key: K) -> bool:
        path: list[tuple[_Node[K, V], str]] = []
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                return False
            path.append((node, level))
            node = child
        if key not in node.values:
            return False
        del node.values[key]
        self._count -= 1
        self.version += 1
        while path and not node.values and not node.children:
            node, level = path.pop()
            del node.children[level]
        return True

    def match(self, topic: str) -> list[tuple[K, V]]:
        levels = topic.split("/")
        found: list[tuple[K, V]] = []
        nodes = [self._root]
        for depth, level in enumerate(levels):
            # [MQTT-4.7.2-1] a leading wildcard does not match a name that begins with $.
            wildcards = depth > 0 or not level.startswith("$")
            following: list[_Node[K, V]] = []
            for node in nodes:
                children = node.children
                exact = children.get(level)
                if exact is not None:
                    following.append(exact)
                if wildcards:
                    one = children.get("+")
                    if one is not None:
                        following.append(one)
                    rest = children.get("#")
                    if rest is not None:
                        found.extend(rest.values.items())
            if not following:
                return found
            nodes = following
        for node in nodes:
            found.extend(node.values.items())
            # "sport/#" also matches "sport": # includes the parent level (4.7.1.2).
            parent = node.children.get("#")
            if parent is not None:
                found.extend(parent.values.items())
        return found


def filter_matches(topic_filter: str, topic: str) -> bool:
    """Whether one valid filter matches one topic name; for routing tables and tests."""
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for depth, level in enumerate(_padded(wanted, len(levels) + 1)):
        if level == "#":
            return True
        if depth == len(levels):
            return level is None
        if level is None or level not in ("+", levels[depth]):
            return False
    return True


def _padded(levels: list[str], count: int) -> Iterator[str | None]:
    for index in range(count):
        yield levels[index] if index < len(levels) else None
