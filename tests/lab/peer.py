"""Servers of one behaviour each, on ports of each address of the arguments.

6432 echo         sends back what it gets; its end follows the other side's
6433 tally        reads to the end, then answers "COUNT SHA256\n" and ends
6434 source       reads "COUNT\n", sends that many bytes of the pattern and ends
6435 reset        waits for a byte, then resets
6436 slow         reads 64 KiB a second, and answers each second's total as a line
6437 witness      reads to the end, and remembers how it came: "end" or "reset", with the count
6438              nobody listens: refused
6439 silent       accepts and never sends; ends when the other side does
6440 testimony    tells what witness remembers, newest last, one line each, and ends
6441 deaf         accepts and reads nothing
"""

import hashlib
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from pattern import pattern  # noqa: E402

CHUNK = 1 << 18
seen = []


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def echo(connection):
    while data := connection.recv(CHUNK):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def tally(connection):
    count, digest = 0, hashlib.sha256()
    while data := connection.recv(CHUNK):
        count += len(data)
        digest.update(data)
    connection.sendall(f"{count} {digest.hexdigest()}\n".encode())
    connection.shutdown(socket.SHUT_WR)


def source(connection):
    with connection.makefile("rb") as lines:
        count = int(lines.readline())
        for part in pattern(count):
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        # Until the other side has ended too: only then is the pattern surely read.
        lines.read()


def reset_at_first_byte(connection):
    if connection.recv(1):
        reset(connection)


def slow(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    total, begin = 0, time.monotonic()
    while data := connection.recv(16 << 10):
        total += len(data)
        late = total / (64 << 10) - (time.monotonic() - begin)
        if late > 0:
            time.sleep(late)
    connection.sendall(f"{total}\n".encode())
    connection.shutdown(socket.SHUT_WR)


def witness(connection):
    count = 0
    try:
        while data := connection.recv(CHUNK):
            count += len(data)
        seen.append(f"end {count}")
    except ConnectionResetError:
        seen.append(f"reset {count}")


def silent(connection):
    while connection.recv(CHUNK):
        pass


def deaf(connection):
    # Kept open by this thread, which waits for what is never read.
    while True:
        time.sleep(3600)


def testimony(connection):
    connection.sendall("".join(line + "\n" for line in list(seen)).encode())
    connection.shutdown(socket.SHUT_WR)


BEHAVIOURS = {
    6432: echo,
    6433: tally,
    6434: source,
    6435: reset_at_first_byte,
    6436: slow,
    6437: witness,
    6439: silent,
    6440: testimony,
    6441: deaf,
}


def serve(listener, behaviour):
    def run(connection):
        try:
            with connection:
                behaviour(connection)
        except OSError:
            pass

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=run, args=(connection,), daemon=True).start()


for address in sys.argv[1:]:
    for port, behaviour in BEHAVIOURS.items():
        listener = socket.create_server((address, port), backlog=1024)
        threading.Thread(target=serve, args=(listener, behaviour)).start()
