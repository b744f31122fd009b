"""A WebSocket echo in Python, with the library `websockets`: see README.md.

    server            prints "listening ADDRESS" and echoes
    client URL COUNT  sends the messages and compares what comes back
"""

import asyncio
import string
import sys

import websockets

LARGEST = 1 << 20
LETTERS = string.ascii_lowercase.encode() * (LARGEST // 26 + 3)
NUMBERS = bytes(at * 7 & 255 for at in range(256)) * (LARGEST // 256 + 2)
OPTIONS = {"max_size": 2 * LARGEST, "ping_interval": None}


def size(number):
    """Mostly small, now and then up to 1 MiB."""
    if number % 997 == 211:
        return LARGEST
    if number % 101 == 50:
        return 65_500 + number % 100
    if number % 13 == 0:
        return 0
    if number % 10 == 5:
        return 100 + number % 60
    return number * 37 % 125


def message(number):
    length = size(number)
    if number % 2 == 0:
        return NUMBERS[number % 256 : number % 256 + length]
    text = LETTERS[number % 26 : number % 26 + length]
    if length >= 3:
        text = text[:-3] + "→".encode()
    return text.decode()


async def send(socket, data, parts):
    """In one frame or in several."""
    if parts:
        third = len(data) // 3
        data = [data[:third], data[third : 2 * third], data[2 * third :]]
    await socket.send(data)


async def echo(socket):
    number = 0
    async for data in socket:
        await send(socket, data, number % 5 == 2)
        if number % 50 == 10:
            await socket.ping()
        number += 1


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0, **OPTIONS) as server:
        host, port = server.sockets[0].getsockname()
        print(f"listening {host}:{port}", flush=True)
        await server.serve_forever()


async def call(url, count):
    async with websockets.connect(url, proxy=None, **OPTIONS) as socket:

        async def send_all():
            pings = 0
            for number in range(count):
                await send(socket, message(number), number % 7 == 3)
                if number % 50 == 25:
                    await (await socket.ping())
                    pings += 1
            return pings

        sending = asyncio.create_task(send_all())
        for number in range(count):
            back = await socket.recv()
            if back != message(number):
                sys.exit(f"message {number} came back changed: {len(back)} of {size(number)}")
        pings = await sending
    if socket.close_code != 1000:
        sys.exit(f"no proper close: {socket.close_code}")
    print(f"ok {count}, {pings} pings")


if sys.argv[1:] == ["server"]:
    asyncio.run(serve())
elif len(sys.argv) == 4 and sys.argv[1] == "client":
    asyncio.run(asyncio.wait_for(call(sys.argv[2], int(sys.argv[3])), 120))
else:
    sys.exit(__doc__)
