"""An ordinary program, as the tests need one: it connects by name, does one thing, and says what it saw.

program.py connect HOST PORT [TIMES]      connects and closes, TIMES in a row; a JSON list of {result, ms}
program.py at-once HOST PORT COUNT        COUNT connections at once, each a round trip through echo, none closed before
                                          all are made; JSON {result: count}
program.py talk HOST PORT                 "connected", then each line of its input to echo and back; says how it ends
program.py talk-within HOST PORT SECS     likewise, and gives the handshake no more than SECS
program.py listen HOST PORT               "connected", then only reads; says how it ends, and after how many ms
program.py hold HOST PORT COUNT           COUNT connections at once; JSON {result: count} once nothing more happens, and when
                                          all have an end after a line of its input
program.py half-close HOST PORT COUNT     sends COUNT bytes, shuts its sending side, then reads all (tally); JSON
program.py download HOST PORT COUNT       has source send COUNT bytes, reads all; JSON
program.py slow-download HOST PORT SECS   has source send without end, reads 64 KiB a second; JSON
program.py flood HOST PORT SECS           sends as much as is taken for SECS, then tells how much that was; JSON
program.py stall HOST COUNT               COUNT connections to source that read nothing and COUNT to deaf that are sent all
                                          they take; "stalled" once nothing moves; ends with its input
program.py requests HOST PORT COUNT SECS  COUNT connections to echo, each with 20 requests a second; JSON {p50, p99} in us
program.py abort HOST PORT                sends three bytes, then resets
program.py provoke HOST PORT              sends a byte, reads; says how it ends
program.py ping ADDRESS                   an echo request, which root may send; says what came back
program.py datagram HOST PORT             sends a datagram, reads; says how it ends
"""

import asyncio
import errno
import hashlib
import json
import resource
import select
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from pattern import pattern, pattern_hash  # noqa: E402

# Longer than any prompt may stay open: a test's own deadline comes first.
PATIENCE = 300
CHUNK = 1 << 18
NAMES = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "aborted",
    errno.EPIPE: "broken pipe",
    errno.ETIMEDOUT: "timed out",
}


def name_of(error):
    if isinstance(error, socket.gaierror):
        return "unknown name"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "no answer"
    return NAMES.get(error.errno, str(error))


def resolve(host, port):
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]


def connect(host, port, handshake=PATIENCE):
    family, kind, protocol, _, address = resolve(host, port)
    connection = socket.socket(family, kind, protocol)
    connection.settimeout(handshake)
    connection.connect(address)
    connection.settimeout(PATIENCE)
    return connection


def say(text):
    print(text, flush=True)


def millis(begin):
    return (time.monotonic() - begin) * 1000


def try_connect(host, port, times="1"):
    seen = []
    family, kind, protocol, _, address = resolve(host, port)
    for _ in range(int(times)):
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(PATIENCE)
        begin, result = time.monotonic(), "connected"
        try:
            connection.connect(address)
        except OSError as error:
            result = name_of(error)
        seen.append({"result": result, "ms": millis(begin)})
        connection.close()
    say(json.dumps(seen))


def at_once(host, port, count):
    results, kept = {}, []
    lock = threading.Lock()

    def one(number):
        text = f"number {number}\n".encode()
        try:
            connection = connect(host, port)
            kept.append(connection)
            with connection.makefile("rb") as lines:
                connection.sendall(text)
                result = "connected" if lines.readline() == text else "garbled"
        except OSError as error:
            result = name_of(error)
        with lock:
            results[result] = results.get(result, 0) + 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(int(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(json.dumps(results))


def talk(host, port, handshake=PATIENCE):
    try:
        connection = connect(host, port, float(handshake))
        say("connected")
        with connection.makefile("rb") as lines:
            for line in sys.stdin.buffer:
                connection.sendall(line)
                answer = lines.readline()
                if not answer:
                    return say("end")
                say(answer.decode().rstrip("\n"))
        say("closed")
    except OSError as error:
        say(name_of(error))


def listen(host, port):
    try:
        connection = connect(host, port)
        say("connected")
        begin = time.monotonic()
        try:
            result = "data" if connection.recv(1) else "end"
        except OSError as error:
            result = name_of(error)
        say(f"{result} after {millis(begin):.0f} ms")
    except OSError as error:
        say(name_of(error))


def hold(host, port, count):
    family, kind, protocol, _, address = resolve(host, port)
    waiting, results, poll = {}, {}, select.epoll()

    def look(seconds):
        ended = poll.poll(seconds)
        for number, _ in ended:
            poll.unregister(number)
            error = waiting[number].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            result = NAMES.get(error, str(error)) if error else "connected"
            results[result] = results.get(result, 0) + 1
            waiting.pop(number).close()
        return ended

    for _ in range(int(count)):
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        connection.connect_ex(address)
        waiting[connection.fileno()] = connection
        poll.register(connection, select.EPOLLOUT)
        look(0)
    # A SYN that was lost is sent again after a second, and again after another: then after two, and four.
    while look(8):
        pass
    say(json.dumps({**results, "waiting": len(waiting)}))
    sys.stdin.readline()
    while waiting:
        look(PATIENCE)
    say(json.dumps(results))


def half_close(host, port, count):
    count = int(count)
    with connect(host, port) as connection:
        sent = hashlib.sha256()
        for part in pattern(count):
            connection.sendall(part)
            sent.update(part)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            told = answer.read().decode().strip()
    say(json.dumps({"same": told == f"{count} {sent.hexdigest()}", "told": told}))


def download(host, port, count):
    count = int(count)
    digest, got = hashlib.sha256(), 0
    with connect(host, port) as connection:
        connection.sendall(f"{count}\n".encode())
        # Our sending side stays open: the other side's half-close alone ends the loop.
        while data := connection.recv(CHUNK):
            digest.update(data)
            got += len(data)
        connection.sendall(b"thanks")
    say(json.dumps({"same": digest.hexdigest() == pattern_hash(count), "bytes": got}))


def slow_download(host, port, seconds):
    with connect(host, port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.sendall(b"100000000000\n")
        begin, got = time.monotonic(), 0
        while (now := time.monotonic() - begin) < float(seconds):
            if got < now * (64 << 10):
                got += len(connection.recv(16 << 10))
            else:
                time.sleep(0.02)
    say(json.dumps({"bytes": got}))


def flood(host, port, seconds):
    sent = 0
    with connect(host, port) as connection:
        connection.settimeout(0.2)
        begin = time.monotonic()
        part = bytes(64 << 10)
        while time.monotonic() - begin < float(seconds):
            try:
                sent += connection.send(part)
            except TimeoutError:
                pass
        say(json.dumps({"bytes": sent}))
        reset(connection)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def abort(host, port):
    connection = connect(host, port)
    connection.sendall(b"abc")
    # Past the send: the bytes are on their way before the reset is.
    time.sleep(0.2)
    reset(connection)
    say("aborted")


def provoke(host, port):
    connection = connect(host, port)
    connection.sendall(b"x")
    try:
        say("data" if connection.recv(1) else "end")
    except OSError as error:
        say(name_of(error))


def ping(address):
    request = struct.pack("!BBHHH", 8, 0, 0, 0x4C61, 1) + b"anybody there?"
    total = sum(struct.unpack(f"!{len(request) // 2}H", request))
    total = (total & 0xFFFF) + (total >> 16)
    request = request[:2] + struct.pack("!H", ~total & 0xFFFF) + request[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as connection:
        connection.settimeout(PATIENCE)
        connection.connect((address, 0))
        connection.send(request)
        packet = connection.recv(2048)
    message = packet[(packet[0] & 15) * 4 :]
    if message[:2] == b"\x00\x00" and message[4:] == request[4:]:
        return say("answered")
    # An error quotes what caused it: a header of 20 bytes, then the request.
    if message[28:] == request and message[0] == 3:
        return say({1: "host unreachable", 3: "port unreachable"}.get(message[1], message.hex()))
    say(message.hex())


def datagram(host, port):
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as connection:
        connection.settimeout(PATIENCE)
        # Without it the kernel keeps what it takes for a passing trouble (IP_RECVERR of ip(7)).
        connection.setsockopt(socket.IPPROTO_IP, 11, 1)
        connection.connect(address)
        connection.send(b"anybody there?")
        say(connection.recv(2048).hex())


def stall(host, count):
    kept = []
    for _ in range(int(count)):
        reader = connect(host, "6434")
        reader.sendall(b"1000000000000\n")
        kept.append(reader)
    for _ in range(int(count)):
        writer = connect(host, "6441")
        writer.setblocking(False)
        kept.append(writer)
    writers = kept[int(count) :]
    taken = True
    while taken:
        taken = False
        # Whatever is on its way has arrived by then.
        time.sleep(1)
        for writer in writers:
            try:
                while writer.send(bytes(CHUNK)):
                    taken = True
            except BlockingIOError:
                pass
    say("stalled")
    sys.stdin.read()


async def request_flow(host, port, until, samples):
    reader, writer = await asyncio.open_connection(host, port)
    while time.monotonic() < until:
        begin = time.perf_counter()
        writer.write(b"x")
        await reader.readexactly(1)
        samples.append(time.perf_counter() - begin)
        await asyncio.sleep(0.05)
    writer.close()


def requests(host, port, count, seconds):
    samples = []

    async def flows():
        until = time.monotonic() + float(seconds)
        await asyncio.gather(*(request_flow(host, port, until, samples) for _ in range(int(count))))

    asyncio.run(flows())
    samples.sort()
    quantile = lambda part: round(samples[int(len(samples) * part)] * 1e6)
    say(json.dumps({"p50": quantile(0.5), "p99": quantile(0.99), "requests": len(samples)}))


COMMANDS = {
    "connect": try_connect,
    "at-once": at_once,
    "talk": talk,
    "talk-within": talk,
    "listen": listen,
    "hold": hold,
    "half-close": half_close,
    "download": download,
    "slow-download": slow_download,
    "flood": flood,
    "stall": stall,
    "requests": requests,
    "abort": abort,
    "provoke": provoke,
    "ping": ping,
    "datagram": datagram,
}

# Many connections are many files; the usual soft limit is 1024.
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

try:
    COMMANDS[sys.argv[1]](*sys.argv[2:])
except OSError as error:
    say(name_of(error))
    sys.exit(1)
