"""What retained messages cost: memory, and the time of a search.

    bench/retained [COUNT]

Makes COUNT (100,000) retained messages of 43 bytes on topics plant/line-L/dev-D/NAME in a new
table, then searches them as a SUBSCRIBE does, in slices, in one thread.
"""

import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.limits import MqttLimits
from gateway.mqtt.retained_store import Retained, RetainedStore

_NAMES = ("temp", "hum", "volt", "amp", "rpm", "state", "cfg", "fw", "err", "mode")
_FILTERS = (
    "plant/line-5/dev-7/temp",
    "plant/line-5/+/temp",
    "plant/+/dev-7/temp",
    "plant/+/dev-7/#",
    "plant/line-7/#",
    "plant/+/none/#",
    "plant/+/+/none",
    "plant/+/+/temp",
    "#",
)


def _resident_kib() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


def _messages(start: int, stop: int) -> Iterator[Retained]:
    for number in range(start, stop):
        topic = f"plant/line-{number // 1000}/dev-{number // 10 % 100}/{_NAMES[number % 10]}"
        yield Retained(topic.encode(), bytes(43), 1, "device", b"", 0, number, 1, None)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = RetainedStore(Path(directory) / "retained.db", bytes(16), MqttLimits())
        began = time.perf_counter()
        for start in range(0, count, 1000):
            store.apply([*_messages(start, start + 1000)], {0: start}, catching_up=False)
            if start + 1000 in (count // 10, count):
                gc.collect()
                print(f"{start + 1000:9,} messages   {_resident_kib():9,} KiB resident")
        rate = count / (time.perf_counter() - began)
        store.sync()
        size = sum(path.stat().st_size for path in Path(directory).iterdir())
        print(f"{rate:9,.0f} messages/s stored, {size / count:.0f} bytes each in the files")
        for topic_filter in _FILTERS:
            _search(store, topic_filter)
        store.close()


def _search(store: RetainedStore, topic_filter: str) -> None:
    began = time.perf_counter()
    key: bytes | None = b""
    found = 0
    while key is not None:
        piece = store.search(topic_filter, key, now_ms=0, count_max=100, bytes_max=64 * 1024)
        found += len(piece.found)
        key = piece.next_key
    took_ms = (time.perf_counter() - began) * 1000
    print(f"{topic_filter:24} {found:8,} found {took_ms:9.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
