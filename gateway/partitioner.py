"""Which partition a key belongs to, exactly as Apache Kafka's default partitioner says.

Owns murmur2 (the 32-bit variant with Kafka's seed, `org.apache.kafka.common.utils.Utils`) and
the mapping of its hash to a partition. Must never differ from Kafka's for any key: a partition
is shipped as it is, and consumers upstream may rely on where a key is.
"""

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The hash as an unsigned 32-bit integer (Kafka's is the same bits, signed)."""
    size = len(data)
    h = _SEED ^ size
    whole = size & ~3
    for position in range(0, whole, 4):
        k = int.from_bytes(data[position : position + 4], "little") * _M & _MASK
        k ^= k >> 24
        k = k * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if whole < size:
        h ^= int.from_bytes(data[whole:], "little")
        h = h * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ (h >> 15)


def partition_for(key: bytes, partition_count: int) -> int:
    """Kafka's `toPositive(murmur2(key)) % numPartitions`; toPositive clears the sign bit."""
    return (murmur2(key) & 0x7FFFFFFF) % partition_count
