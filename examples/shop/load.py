"""A few requests a second on the shop, and one line about them now and then.

Plain urllib: the way to `http://orders/` comes from the HTTP_PROXY variable.
Ends on SIGINT and SIGTERM, or after DEMO_SECONDS. Its exit status is 0 only
if there were answers, each was the right one, and each told of all three
services.
"""

import json
import os
import signal
import statistics
import sys
import threading
import time
import urllib.error
import urllib.request

RATE = float(os.environ.get("DEMO_RATE", "2"))
SECONDS = float(os.environ.get("DEMO_SECONDS") or "inf")
REPORT = 10.0
HINT = os.environ.get("DEMO_HINT", "")
stop = threading.Event()


def ask(path, order=None):
    """One call; returns what the service answered."""
    body = None if order is None else json.dumps(order).encode()
    request = urllib.request.Request(f"http://orders{path}", data=body)
    if body is not None:
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def turn(number):
    """Places an order every fifth time, and reads one otherwise."""
    if number % 5 == 0:
        order = ask("/v1/orders", {"user": str(1 + number // 5 % 3), "items": ["a cup"]})
        complete = order["user"]["name"] and order["items"] == ["a cup"]
    else:
        order = ask("/v1/orders/1")
        complete = order["user"]["name"] and order["recommended"]
    if not complete:
        raise ValueError(f"an incomplete answer: {order}")


def explain(error):
    """What went wrong, in one line, with Pillion's reason if it gave one."""
    if isinstance(error, urllib.error.HTTPError):
        reason = error.headers.get("pillion-error") or error.read(200).decode(errors="replace")
        return f"{error.code} {reason}"
    return f"{type(error).__name__}: {error}"


def report(latencies, failures):
    now = time.strftime("%H:%M:%S")
    line = f"load      {now}  {len(latencies):4d} ok  {len(failures):3d} failed"
    if latencies:
        ordered = sorted(latencies)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        line += f"   median {statistics.median(ordered) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"
    print(line, flush=True)
    if HINT:
        print(f"load      try: {HINT}", flush=True)
    for failure in sorted(set(failures))[:3]:
        print(f"load      failed: {failure}", flush=True)


def main():
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    start = time.monotonic()
    latencies, failures, total, failed, number = [], [], 0, 0, 0
    next_report = start + REPORT
    while not stop.wait(max(0.0, start + number / RATE - time.monotonic())):
        begun = time.monotonic()
        if begun - start >= SECONDS:
            break
        try:
            turn(number)
            latencies.append(time.monotonic() - begun)
        except (OSError, ValueError, KeyError, TypeError) as error:
            failures.append(explain(error))
        number += 1
        if time.monotonic() >= next_report:
            report(latencies, failures)
            total, failed = total + len(latencies), failed + len(failures)
            latencies, failures = [], []
            next_report += REPORT
    if latencies or failures:
        report(latencies, failures)
    total, failed = total + len(latencies), failed + len(failures)
    print(f"load      in all: {total} ok, {failed} failed", flush=True)
    return 0 if total and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
