"""A web server for transfers, on port 8080 of each address of the arguments.

GET /bytes/N answers N bytes of the lab's pattern; PUT answers the SHA-256 and the length of what it was sent.
"""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from pattern import pattern  # noqa: E402

CHUNK = 1 << 20


class Transfers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        count = int(self.path.removeprefix("/bytes/"))
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        for part in pattern(count):
            self.wfile.write(part)

    def do_PUT(self):
        left = int(self.headers["Content-Length"])
        count, digest = left, hashlib.sha256()
        while left > 0:
            part = self.rfile.read(min(CHUNK, left))
            if not part:
                return
            digest.update(part)
            left -= len(part)
        answer = json.dumps({"sha256": digest.hexdigest(), "bytes": count}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


servers = [ThreadingHTTPServer((address, 8080), Transfers) for address in sys.argv[1:]]
for server in servers:
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=False).start()
