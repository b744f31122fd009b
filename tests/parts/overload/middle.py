"""The middle tier of the overload: 32 workers, as a WSGI server would have them.

/price is its own work; /stock asks the last tier, as often as TRIES says, each
time for at most a second.
"""

import http.client
import os
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler

TRIES = int(os.environ["TRIES"])
# Where calls go, and what they are for: a sidecar and a name, or the service itself.
GATE, HOST = os.environ["GATE"], os.environ["HOST"]
WORKERS = threading.Semaphore(32)
HELD = threading.local()
COUNT = {"asked": 0}
LOCK = threading.Lock()


def once():
    """One question to the last tier, on this thread's own connection."""
    link = getattr(HELD, "link", None)
    if link is None:
        link = HELD.link = http.client.HTTPConnection(GATE, timeout=1)
    try:
        link.request("GET", "/stock", headers={"Host": HOST})
        answer = link.getresponse()
        answer.read()
        return answer.status == 200
    except (OSError, http.client.HTTPException):
        link.close()
        HELD.link = None
        return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with LOCK:
            COUNT["asked"] += 1
        if self.path == "/count":
            return self.say(200, str(COUNT["asked"] - 1))
        with WORKERS:
            if self.path == "/price":
                time.sleep(0.002)
                return self.say(200, "ok")
            good = any(once() for _ in range(TRIES))
            return self.say(200 if good else 503, "ok" if good else "the last tier did not answer")

    def say(self, status, text):
        body = f"{text}\n".encode()
        head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        try:
            self.wfile.write(head + body)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
