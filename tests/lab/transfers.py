"""Connections of every kind at once, each checked to its last byte: what a seed says, to the servers of peer.py.

transfers.py HOST SEED COUNT      COUNT connections, or one of each kind where COUNT is "each"; JSON {"faults": [what
                                  went wrong, one sentence each], "bytes": n, "aborted": how many it has reset itself,
                                  "longest": the one that took longest}
"""

import hashlib
import itertools
import json
import random
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from pattern import pattern_hash  # noqa: E402

# A lost packet costs a round trip, a lost connection attempt a second, doubled each time.
PATIENCE = 60
MOST = 256 << 10
faults, moved, aborted, times = [], [], [], []


class Fault(Exception):
    pass


def connect(place, port, dice):
    family, address = place
    connection = socket.socket(family)
    connection.settimeout(PATIENCE)
    if dice.random() < 0.2:
        size = dice.choice([4 << 10, 64 << 10])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    connection.connect((address, port))
    return connection


def read(connection, dice):
    """What comes, at this connection's own pace."""
    size, rest = dice.choice([(1 << 18, 0), (1 << 18, 0), (8192, 0.005)])
    while data := connection.recv(size):
        yield data
        time.sleep(rest)


def echo(connection, dice, count):
    # No two connections send the same, so that bytes of another one show.
    sent, errors = dice.randbytes(count), []

    def send():
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    got = b"".join(read(connection, dice))
    thread.join()
    if errors:
        raise errors[0]
    if got != sent:
        right = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(got, sent)))
        raise Fault(f"{len(got)} of {count} bytes came back, the first {right} of them as they were sent")


def tally(connection, dice, count):
    sent = dice.randbytes(count)
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    told = b"".join(read(connection, dice)).decode().strip()
    if told != f"{count} {hashlib.sha256(sent).hexdigest()}":
        raise Fault(f"the server had {told!r} of {count} bytes")


def source(connection, dice, count):
    connection.sendall(f"{count}\n".encode())
    got, digest = 0, hashlib.sha256()
    for data in read(connection, dice):
        digest.update(data)
        got += len(data)
    if (got, digest.hexdigest()) != (count, pattern_hash(count)):
        raise Fault(f"{got} of {count} bytes came, or others")
    connection.sendall(b"thanks")


def reset(connection, dice, count):
    connection.sendall(b"x")
    try:
        data = connection.recv(1)
    except ConnectionResetError:
        return
    raise Fault(f"not reset: {data!r}")


def abort(connection, dice, count):
    connection.sendall(bytes(count))
    time.sleep(dice.random() / 50)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    aborted.append(count)


# Nobody else speaks to the witness: all that it has seen must be resets.
KINDS = [(6432, echo), (6432, echo), (6433, tally), (6434, source), (6435, reset), (6437, abort)]


def one(place, seed, number, kinds):
    dice = random.Random(f"{seed} {number}")
    port, kind = dice.choice(kinds)
    count = dice.randint(1, 1 << dice.randint(0, MOST.bit_length() - 1))
    begin = time.monotonic()
    try:
        with connect(place, port, dice) as connection:
            kind(connection, dice, count)
        moved.append(count)
    except (OSError, Fault) as error:
        faults.append(f"{what_was(number, kind, count, begin)}: {type(error).__name__}: {error}")
    times.append((time.monotonic() - begin, what_was(number, kind, count, begin)))


def what_was(number, kind, count, begin):
    return f"connection {number}, {kind.__name__} of {count} bytes, after {time.monotonic() - begin:.1f} s"


host, seed, count = sys.argv[1:]
# Asked once: who resolves names is not what is tried here.
family, _, _, _, address = socket.getaddrinfo(host, 6432, type=socket.SOCK_STREAM)[0]
place = family, address[0]
wanted = [[kind] for kind in KINDS] if count == "each" else [KINDS] * int(count)
threads = [threading.Thread(target=one, args=(place, seed, number, kinds)) for number, kinds in enumerate(wanted)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
summary = {"faults": faults, "bytes": sum(moved), "aborted": len(aborted), "longest": max(times)[1]}
print(json.dumps(summary))
