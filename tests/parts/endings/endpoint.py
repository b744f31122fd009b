"""An endpoint that answers every GET with 200 and its name, and becomes what it
is told: a line on its standard input is `well`, `resets` (each call, and all
connections at once), `refuses` (nobody listens) or `slow` (an answer takes 2 s).
It ends with its standard input.

    endpoint.py NAME ADDRESS PORT
"""

import asyncio
import socket
import struct
import sys

mode = "well"
connections = set()


class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.unread = transport, b""
        connections.add(self)

    def connection_lost(self, error):
        connections.discard(self)

    def data_received(self, data):
        *heads, self.unread = (self.unread + data).split(b"\r\n\r\n")
        for _ in heads:
            if mode == "resets":
                return self.reset()
            if mode == "slow":
                asyncio.get_running_loop().call_later(2, self.answer)
            else:
                self.answer()

    def answer(self):
        name = sys.argv[1]
        self.transport.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode())

    def reset(self):
        own = self.transport.get_extra_info("socket")
        if own is not None and own.fileno() >= 0:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


async def main():
    global mode
    loop, server = asyncio.get_running_loop(), None
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while True:
        if mode == "refuses":
            server.close()
            server = None
        elif server is None:
            server = await loop.create_server(Connection, sys.argv[2], int(sys.argv[3]), reuse_address=True, backlog=512)
        if mode in ("resets", "refuses"):
            for connection in list(connections):
                connection.reset()
        line = await lines.readline()
        if not line:
            return
        mode = line.decode().strip()


asyncio.run(main())
