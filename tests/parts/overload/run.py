#!/usr/bin/env python3
"""Three tiers (Go, Python, Rust) under load, of which the last loses 80 % of its
capacity for 30 s: once with sidecars, once with three tries in each service's
code. Counts what came of it, draws it, and fails if a demand is not met.

run.py PILLION FRONT LAST [--out FILE.svg] [--calm 10] [--harm 30] [--after 20]
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import draw

HERE = pathlib.Path(__file__).resolve().parent
# Calls a second of each route: what the first tier does alone, what needs the
# middle one, what needs all three. The last tier can do 400, and in its bad time 80.
RATES = {"own": 100, "price": 100, "stock": 150}
# An answer that comes later is of no use to anybody.
USEFUL = 1.0
# The policy of both callers; whatever it does not say is the default.
POLICY = """\
version: 1
{side}:
  - {to}timeout: 1s
{keys}"""
CALLER = """\
    retry: {max: 2}
    concurrency: adaptive
"""
CALLED = "    concurrency: adaptive\n"


def free():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Tiers:
    """The three services, with or without sidecars."""

    def __init__(self, options, sidecars, folder, stack):
        self.options, self.folder, self.stack = options, folder, stack
        names = ["front", "middle", "last"]
        self.port = {name: free() for name in names}
        self.inbound, self.outbound = self.port, {}
        if sidecars:
            self.inbound = {name: free() for name in names}
            self.outbound = {name: free() for name in names}
            for name in names:
                self.sidecar(name)
        tries = "1" if sidecars else "3"
        middle, last = f"127.0.0.1:{self.port['middle']}", f"127.0.0.1:{self.port['last']}"
        self.start("last", [options.last])
        self.start("middle", [sys.executable, HERE / "middle.py"], TRIES=tries,
                   GATE=f"127.0.0.1:{self.outbound['middle']}" if sidecars else last,
                   HOST="last" if sidecars else last)
        proxy = {"HTTP_PROXY": f"http://127.0.0.1:{self.outbound['front']}"} if sidecars else {}
        self.start("front", [options.front], TRIES=tries,
                   MIDDLE="http://middle" if sidecars else f"http://{middle}", **proxy)
        for name in names:
            self.wait(name)

    def start(self, name, words, **environment):
        log = open(self.folder / f"{name}.log", "ab")
        environment = {**os.environ, "PORT": str(self.port.get(name, 0)), **environment}
        process = subprocess.Popen([str(word) for word in words], env=environment, stdout=log, stderr=log)
        self.stack.callback(end, process)

    def sidecar(self, name):
        admin, probes = free(), free()
        keys = POLICY.format(side="inbound", to="", keys=CALLED)
        to = {"front": "middle", "middle": "last"}.get(name)
        if to:
            keys += POLICY.format(side="outbound", to=f"to: {to}\n    ", keys=CALLER).split("\n", 1)[1]
        (self.folder / f"{name}-policy.yaml").write_text(keys)
        others = ", ".join(f'{other}: ["127.0.0.1:{port}"]' for other, port in self.inbound.items())
        (self.folder / f"{name}.yaml").write_text(f"""\
version: 1
service: {{name: {name}, port: {self.port[name]}}}
listen:
  inbound: 127.0.0.1:{self.inbound[name]}
  outbound: 127.0.0.1:{self.outbound[name]}
  admin: 127.0.0.1:{admin}
  probes: 127.0.0.1:{probes}
policies: [{name}-policy.yaml]
discovery:
  - static: {{{others}}}
""")
        self.start(f"{name}-sidecar", [self.options.pillion, "run", "-c", self.folder / f"{name}.yaml"])

    def wait(self, name):
        for port in {self.port[name], self.inbound[name]}:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if time.monotonic() > deadline:
                    log = "\n".join(file.read_text() for file in self.folder.glob(f"{name}*.log"))
                    sys.exit(f"{name} did not begin to listen:\n{log}")
                time.sleep(0.05)

    def ask(self, name, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port[name]}{path}", timeout=20) as answer:
            return answer.read().decode().strip()


def end(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Caller:
    """Calls at a steady rate, whatever becomes of them."""

    def __init__(self, port):
        self.port, self.idle, self.done = port, [], []

    async def call(self, route, path):
        begun = time.monotonic()
        good = False
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError):
            good = await asyncio.wait_for(self.once(path), 2 * USEFUL)
        took = time.monotonic() - begun
        self.done.append((begun, route, good and took <= USEFUL, took))

    async def once(self, path):
        link = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = link
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: front\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.decode().lower().split("\r\n")
                          if line.startswith("content-length:"))
            await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        self.idle.append(link)
        return head[9:12] == b"200"

    async def run(self, seconds, at):
        """Calls for so long; `at` holds what to do after so many seconds."""
        start = time.monotonic()
        calls, due = set(), sorted(at)
        turns = {route: 0 for route in RATES}
        while (now := time.monotonic() - start) < seconds:
            while due and now >= due[0][0]:
                await asyncio.to_thread(due.pop(0)[1])
            for route, rate in RATES.items():
                while turns[route] < now * rate:
                    turns[route] += 1
                    call = asyncio.create_task(self.call(route, f"/{route}"))
                    calls.add(call)
                    call.add_done_callback(calls.discard)
            await asyncio.sleep(0.002)
        await asyncio.gather(*calls)
        for _, writer in self.idle:
            writer.close()
        return [(begun - start, *rest) for begun, *rest in self.done]


def measure(options, sidecars):
    """One run: the calls, and how many came to each tier."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tiers = Tiers(options, sidecars, folder, stack)
        if sidecars:
            wait_ready(tiers)
        whole = options.calm + options.harm + options.after
        at = [(options.calm, lambda: tiers.ask("last", "/slow/100")),
              (options.calm + options.harm, lambda: tiers.ask("last", "/slow/20"))]
        calls = asyncio.run(Caller(tiers.inbound["front"]).run(whole, at))
        came = {name: int(tiers.ask(name, "/count")) for name in ["middle", "last"]}
    return calls, came


def wait_ready(tiers):
    """Until a call of each kind goes through."""
    deadline = time.monotonic() + 20
    for route in RATES:
        while True:
            with contextlib.suppress(OSError):
                url = f"http://127.0.0.1:{tiers.inbound['front']}/{route}"
                with urllib.request.urlopen(url, timeout=5):
                    break
            if time.monotonic() > deadline:
                sys.exit(f"/{route} was never answered")
            time.sleep(0.1)


def share(calls, route, since, until):
    """The share of useful answers."""
    of = [good for at, name, good, _ in calls if name == route and since <= at < until]
    return sum(of) / max(len(of), 1)


def judge(options, calls, came):
    """What came of a run, in figures."""
    back = options.calm + options.harm
    asked = {route: sum(name == route for _, name, *_ in calls) for route in RATES}
    recovered = next((second for second in range(options.after - 1)
                      if all(share(calls, "stock", at, at + 1) >= 0.95
                             for at in range(back + second, back + options.after - 1))), None)
    return {
        "own": share(calls, "own", options.calm, back),
        "price": share(calls, "price", options.calm, back),
        "stock": share(calls, "stock", options.calm, back),
        "middle": came["middle"] / (asked["price"] + asked["stock"]),
        "last": came["last"] / asked["stock"],
        "recovered": recovered,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name in ["pillion", "front", "last"]:
        parser.add_argument(name)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--calm", type=int, default=10)
    parser.add_argument("--harm", type=int, default=30)
    parser.add_argument("--after", type=int, default=20)
    parser.add_argument("--only", choices=["pillion", "naive"])
    options = parser.parse_args()
    runs = {}
    for name in ["naive", "pillion"]:
        if options.only in (None, name):
            calls, came = measure(options, name == "pillion")
            runs[name] = (calls, judge(options, calls, came))
            print(name, *(f"{key} {value if value is None else round(value, 3)}"
                          for key, value in runs[name][1].items()), flush=True)
    if options.out:
        options.out.write_text(draw.plot(
            {name: calls for name, (calls, _) in runs.items()}, RATES, options.calm, options.calm + options.harm))
    if "pillion" in runs:
        seen = runs["pillion"][1]
        misses = [text for met, text in [
            (seen["own"] > 0.95 and seen["price"] > 0.95, "the unharmed routes stay above 95 %"),
            (max(seen["middle"], seen["last"]) < 1.25, "attempts stay under 1.25 a call"),
            (seen["recovered"] is not None and seen["recovered"] <= 5, "all is well 5 s after the tier is"),
        ] if not met]
        sys.exit("not met: " + "; ".join(misses) if misses else 0)


if __name__ == "__main__":
    main()
