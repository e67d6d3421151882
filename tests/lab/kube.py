"""So much of a Kubernetes API that kubectl lists pods: over TLS, with a bearer token, one pod in one namespace.

kube.py ADDRESS PORT CERTIFICATE KEY
"""

import http.server
import json
import ssl
import sys

ANSWERS = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}
        ],
    },
    "/api/v1/namespaces/default/pods": {
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": "1"},
        "items": [
            {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"name": "billing-0", "namespace": "default"},
                "spec": {"containers": [{"name": "billing", "image": "billing"}]},
                "status": {"phase": "Running"},
            }
        ],
    },
}


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        known = ANSWERS.get(self.path.split("?")[0])
        allowed = self.headers.get("authorization") == "Bearer a-token-of-the-lab"
        status = 200 if known and allowed else 404 if allowed else 401
        body = json.dumps(known if status == 200 else {"kind": "Status", "code": status}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(address, port, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer((address, int(port)), Api)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


main(*sys.argv[1:])
