"""The bytes that both sides of a transfer can make and hash without storing them."""

import hashlib
import random

BLOCK = random.Random(20_001).randbytes(1 << 20)


def pattern(count):
    """Yields `count` bytes: one block again and again, each time begun with its number, so that order shows."""
    number = 0
    while count > 0:
        part = number.to_bytes(8, "big") + BLOCK[8:]
        yield part[:count]
        count -= len(part)
        number += 1


def pattern_hash(count):
    digest = hashlib.sha256()
    for part in pattern(count):
        digest.update(part)
    return digest.hexdigest()
