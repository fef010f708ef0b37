"""Which partition a key goes to: Kafka's murmur2, as ``partitioner=murmur2_random`` and the Java client have it."""

from __future__ import annotations

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return the 32-bit hash, unsigned.

    Source: ``org.apache.kafka.common.utils.Utils.murmur2`` (MurmurHash 2 by Austin Appleby, seed 0x9747b28c).
    """
    length = len(data)
    value = (_SEED ^ length) & _MASK
    whole = length & ~3
    for start in range(0, whole, 4):
        block = (int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER) & _MASK
        block ^= block >> 24
        block = (block * _MULTIPLIER) & _MASK
        value = ((value * _MULTIPLIER) & _MASK) ^ block
    if whole < length:
        value ^= int.from_bytes(data[whole:], "little")
        value = (value * _MULTIPLIER) & _MASK
    value ^= value >> 13
    value = (value * _MULTIPLIER) & _MASK
    return value ^ (value >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a topic with so many partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
