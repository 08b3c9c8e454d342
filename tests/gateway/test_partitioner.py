"""The partition of a key, against Apache Kafka's own."""

import pytest

from gateway.partitioner import murmur2, partition_for

# The first six are UtilsTest.testMurmur2 of Apache Kafka; the rest, and the partitions, are what
# its `Utils.toPositive(Utils.murmur2(key)) % count` (kafka-clients 4.3.0) gives.
GOLDEN = [
    ("21", -973932308, 0, 12),
    ("foobar", -790332482, 0, 14),
    ("a-little-bit-long-string", -985981536, 2, 0),
    ("a-little-bit-longer-string", -1486304829, 2, 3),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971, 2, 13),
    ("abc", 479470107, 0, 11),
    ("", 275646681, 0, 9),
    ("a", -1563381124, 1, 12),
    ("device-0042", -1957486054, 1, 10),
    ("Ünïcode-ключ", 140846795, 2, 11),
]


@pytest.mark.parametrize(("key", "signed_hash", "of_3", "of_16"), GOLDEN)
def test_hash_and_partition_are_kafkas(key: str, signed_hash: int, of_3: int, of_16: int) -> None:
    data = key.encode()
    assert murmur2(data) == signed_hash & 0xFFFFFFFF
    assert partition_for(data, 3) == of_3
    assert partition_for(data, 16) == of_16


def test_a_single_partition_takes_every_key() -> None:
    assert {partition_for(b"%d" % number, 1) for number in range(100)} == {0}
