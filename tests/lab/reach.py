"""Exits 0 if a TCP connection to each HOST:PORT of the arguments succeeds."""

import socket
import sys

for place in sys.argv[1:]:
    host, port = place.rsplit(":", 1)
    socket.create_connection((host, int(port)), timeout=2).close()
