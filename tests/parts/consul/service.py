"""A service that registers itself with Consul, and a client that finds services,
as Python programs do it with py-consul: `service.py serve NAME ADDRESS PORT`,
`service.py find NAME`.

Where Consul is and with which token: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN.
"""

import http.server
import signal
import sys
import threading

import consul


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"well\n" if self.path == "/health" else f"{self.server.service} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(name, address, port):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.service = name
    # Who asks for the health may go without a word.
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = consul.Consul()
    check = consul.Check.http(f"http://127.0.0.1:{port}/health", "10s", timeout="2s", deregister="1m")
    client.agent.service.register(name, service_id=f"{name}-1", address=address, port=port, tags=["python"], check=check)
    print("registered", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    while not ended.wait(0.1):
        pass
    client.agent.service.deregister(f"{name}-1")


def find(name):
    _, entries = consul.Consul().health.service(name, passing=True)
    print("; ".join(sorted(found(entry) for entry in entries)), flush=True)


def found(entry):
    service = entry["Service"]
    address = service["Address"] or entry["Node"]["Address"]
    return f"{address}:{service['Port']} {','.join(service['Tags'])}"


if sys.argv[1] == "serve":
    serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
else:
    find(sys.argv[2])
