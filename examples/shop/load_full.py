"""Everything that the whole shop does, a few times a second; then it counts.

REST, gRPC in its four kinds, a WebSocket, rows in three databases, events over
RabbitMQ and Kafka. HTTP and gRPC find their way by the http_proxy variable, the
databases and the brokers are behind local ports of sidecars. Halfway through,
the database goes away for a moment (if SHOP_STATE says where it lives).

Ends on SIGINT and SIGTERM, or after DEMO_SECONDS. Its exit status is 0 only if
nothing failed and every order and every event is where it should be.
"""

import asyncio
import json
import os
import pathlib
import signal
import statistics
import sys
import time
from collections import defaultdict

import grpc
import httpx
import psycopg
import shop_pb2
import shop_pb2_grpc
import websockets
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from kafka import KafkaConsumer, TopicPartition

PROXY = os.environ["http_proxy"]
RATE = float(os.environ.get("DEMO_RATE", "5"))
SECONDS = float(os.environ.get("DEMO_SECONDS") or "inf")
STATE = os.environ.get("SHOP_STATE")
REPORT = 5.0
# Kafka and PostgreSQL through the sidecars, as pillion.dev.full.yaml has them.
BROKER = "127.0.0.1:9203"
DATABASE = "postgres://postgres@127.0.0.1:9001/"
SERVICES = {"users": 8081, "recommendations": 8082, "orders": 8083}


class Tally:
    """What was done, what failed, and what must be found at the end."""

    def __init__(self):
        self.took, self.failures = defaultdict(list), defaultdict(list)
        self.users, self.orders, self.placed, self.gifts = [], [], set(), set()

    async def timed(self, kind, call):
        """Awaits one call and notes how it went; None if it failed."""
        begun = time.monotonic()
        try:
            result = await call
        except (httpx.HTTPError, grpc.RpcError, AssertionError, KeyError, IndexError, ValueError, OSError) as error:
            self.failures[kind].append(explain(error))
            return None
        self.took[kind].append(time.monotonic() - begun)
        return result

    def table(self):
        print(f"\n  {time.strftime('%H:%M:%S')} {'':21s}   done  failed    median       p99", flush=True)
        for kind in sorted(self.took.keys() | self.failures.keys()):
            took = sorted(self.took[kind]) or [0]
            p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
            times = f"{statistics.median(took) * 1000:7.1f} ms {p99 * 1000:6.1f} ms" if took[-1] else ""
            print(f"  {kind:30s} {len(self.took[kind]):6d} {len(self.failures[kind]):7d} {times}")
            for failure in sorted(set(self.failures[kind]))[:3]:
                print(f"      failed: {failure}")
        print(f"  {'WebSocket: orders, gifts':30s} {len(self.placed):6d} + {len(self.gifts)}", flush=True)


def explain(error):
    if isinstance(error, httpx.HTTPStatusError):
        reply = error.response
        return f"{reply.request.url} {reply.status_code} {reply.headers.get('pillion-error') or reply.text[:200]}"
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name} {error.details()}"
    return f"{type(error).__name__}: {error}"


class Shop:
    """The ways in: by name, through the sidecar of http_proxy."""

    def __init__(self, http, channels, tally):
        self.http, self.tally = http, tally
        self.users = shop_pb2_grpc.UsersStub(channels["users"])
        self.orders = shop_pb2_grpc.OrdersStub(channels["orders"])
        self.recommendations = shop_pb2_grpc.RecommendationsStub(channels["recommendations-grpc"])

    async def rest(self, method, url, body=None, status=None):
        reply = await self.http.request(method, url, json=body)
        if status is None:
            reply.raise_for_status()
        else:
            assert reply.status_code == status, f"{url}: {reply.status_code} {reply.text[:200]}, not {status}"
        return reply.json()

    async def suggest(self, *users):
        """Bidirectional: the next question is asked when the last is answered."""
        stream = self.recommendations.Suggest(timeout=5)
        answers = []
        for user in users:
            await stream.write(shop_pb2.SuggestRequest(user=user))
            answers.append(await stream.read())
            assert answers[-1] is not grpc.aio.EOF, "the stream ended"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        return answers

    async def place(self, user, *items):
        """Client streaming: a basket."""
        basket = (shop_pb2.NewOrder(user=user, item=item) for item in items)
        return list((await self.orders.Place(basket, timeout=5)).orders)

    async def watch(self, count):
        """Server streaming: the first of those who are there."""
        stream = self.users.Watch(shop_pb2.WatchUsersRequest(), timeout=5)
        seen = [(await stream.read()).name for _ in range(count)]
        stream.cancel()
        assert seen[0] == "Ada", seen

    async def turn(self, number):
        timed, tally = self.tally.timed, self.tally
        new = {"name": f"User {number}", "favourite": ("tea", "coffee")[number % 2]}
        user = await timed("REST: new user (Go)", self.rest("POST", "http://users/v1/users", new))
        if not user:
            return
        who = user["id"]
        tally.users.append(who)
        body = {"user": who, "items": ["a cup"]}
        order = await timed("REST: new order (Rust)", self.rest("POST", "http://orders/v1/orders", body))
        if order:
            tally.orders.append(order["id"])
            await timed("REST: order, user, suggestion", self.shown(order["id"], new["name"]))
        basket = self.rest("POST", f"http://users/v1/users/{who}/basket", {"items": ["a pot", "a lid"]})
        placed = await timed("REST: basket (Go to Rust)", basket)
        tally.orders.extend(placed["orders"] if placed else [])
        found = await timed("gRPC unary (Go)", self.users.Get(shop_pb2.GetUserRequest(id=who), timeout=5))
        assert not found or found.name == new["name"]
        tally.orders.extend(await timed("gRPC client stream (Rust)", self.place(who, "a spoon", "a bowl")) or [])
        await timed("gRPC both streams (Python)", self.suggest(who, "1"))
        await timed("gRPC server stream (Go)", self.watch(3))
        await timed("errors with details", self.errors())

    async def shown(self, order, name):
        """Rust asks Go (unary) and Python (both streams) for it."""
        reply = await self.rest("GET", f"http://orders/v1/orders/{order}")
        assert reply["user"]["name"] == name and "recommended" in reply, reply

    async def errors(self):
        """Made in one language, passed by sidecars, read in another."""
        resource, reason = error_details_pb2.ResourceInfo(), error_details_pb2.ErrorInfo()
        # Go to Python.
        await details(self.users.Get(shop_pb2.GetUserRequest(id="nobody"), timeout=5), resource)
        assert (resource.resource_name, resource.owner) == ("nobody", "users"), resource
        # Python to Python.
        await details(self.suggest(""), reason)
        assert (reason.reason, reason.domain) == ("USER_MISSING", "shop.v1"), reason
        # Go to Rust to Python.
        await details(self.place("nobody", "a cup"), resource)
        assert resource.resource_name == "nobody", resource
        # Rust to Go, which shows it.
        reply = await self.rest("POST", "http://users/v1/users/1/basket", {"items": ["a cup", ""]}, 400)
        assert reply["error"]["details"][0]["fieldViolations"][0]["field"] == "orders[1].item", reply
        # Go to Rust, which shows it.
        reply = await self.rest("POST", "http://orders/v1/orders", {"user": "nobody", "items": []}, 422)
        assert reply["resource"]["name"] == "nobody", reply


async def details(call, into):
    """The call must fail; its details are unpacked."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        assert status and status.details and status.details[0].Unpack(into), f"no details: {explain(error)}"
        return
    raise AssertionError("it should have failed")


async def listen(tally):
    """The WebSocket of `orders`: what becomes of each order."""
    try:
        async with websockets.connect("ws://orders/v1/orders/watch", proxy=PROXY) as socket:
            async for text in socket:
                said = json.loads(text)
                (tally.placed if said["status"] == "placed" else tally.gifts).add(said["order"])
    except (OSError, websockets.WebSocketException) as error:
        tally.failures["WebSocket"].append(explain(error))


async def outage(http):
    """Takes the database away; waits until the mesh knows, then gives it back."""
    state = pathlib.Path(STATE)
    print("\n  the database goes away", flush=True)
    (state / "hold").touch()
    try:
        os.kill(int((state / "postgres" / "pid").read_text()), signal.SIGINT)
        sick = await until(http, 503)
        print(f"  /health of each service is 503; the mesh finds none of them: {sick}", flush=True)
    finally:
        (state / "hold").unlink()
    well = await until(http, 200)
    print(f"  the database is back, and so are they: {well}", flush=True)


async def until(http, status):
    """When each answered so itself, and when it did through the mesh."""
    begun, when = time.monotonic(), {}
    while len(when) < 2 * len(SERVICES):
        assert time.monotonic() - begun < 60, f"not all came to {status}: {when}"
        for name, port in SERVICES.items():
            own = await http.get(f"http://127.0.0.1:{port}/health")
            mesh = await http.get(f"http://{name}/health")
            # The name is gone from the registry once its sidecar is sure.
            gone = mesh.headers.get("pillion-error", "") != "" if status == 503 else mesh.status_code == 200
            for key, reached in ((name, own.status_code == status), (f"{name} in the mesh", gone)):
                if reached:
                    when.setdefault(key, f"{time.monotonic() - begun:.1f} s")
        await asyncio.sleep(0.2)
    return ", ".join(f"{key} {value}" for key, value in when.items())


async def verify(tally, http):
    """What must hold, and what was found instead."""
    stats = (await http.get("http://recommendations/v1/stats")).json()
    orders = await rows("orders", "select id, gift from orders")
    tastes = await rows("recommendations", "select user_id from tastes")
    gifts = await rows("recommendations", "select order_id from gifts")
    kept = await rows("users", "select id::text from users where id > 3")
    told, taken = await asyncio.to_thread(offsets, "orders", "recommendations")
    given, noted = await asyncio.to_thread(offsets, "gifts", "orders")
    acknowledged, back, again = (stats["user.created"][what] for what in ("acknowledged", "requeued", "redelivered"))
    # Others may have ordered too: events are held against the databases.
    ordered, made = {row[0] for row in orders}, {row[0] for row in kept}
    gifted = [row for row in orders if row[1]]
    mine = set(tally.orders)
    return [
        ("orders placed, and in their database", len(mine), len(mine & ordered), mine <= ordered),
        ("users made, and in their database", len(tally.users), len(made), made >= set(tally.users)),
        ("user.created acknowledged", len(made), acknowledged, acknowledged == len(made)),
        ("  kept by recommendations", len(made), len(tastes), {row[0] for row in tastes} == made),
        ("  went back, and came again", back, again, back == again >= len(made) // 10),
        ("orders told to Kafka", len(ordered), told, told == len(ordered)),
        ("  committed by recommendations", told, taken, taken == told),
        ("  gifts chosen", told, len(gifts), {row[0] for row in gifts} == ordered),
        ("gifts told to Kafka, and committed by orders", given, noted, noted == given >= told),
        ("  noted at their orders", len(ordered), len(gifted), len(gifted) == len(ordered)),
        ("orders heard on the WebSocket", len(mine), len(mine & tally.placed), mine <= tally.placed),
        ("gifts heard on the WebSocket", len(mine), len(mine & tally.gifts), mine <= tally.gifts),
    ]


async def rows(database, query):
    async with await psycopg.AsyncConnection.connect(DATABASE + database) as connection:
        return await (await connection.execute(query)).fetchall()


def offsets(topic, group):
    """Records in the topic, and how many of them the group has committed."""
    consumer = KafkaConsumer(bootstrap_servers=BROKER, group_id=group, enable_auto_commit=False)
    try:
        parts = [TopicPartition(topic, part) for part in consumer.partitions_for_topic(topic) or []]
        return sum(consumer.end_offsets(parts).values()), sum(consumer.committed(part) or 0 for part in parts)
    finally:
        consumer.close()


async def load(shop, stop):
    """Turns at their rate, at most 25 at one time; the outage halfway."""
    room, running = asyncio.Semaphore(25), set()
    start, number, paused = time.monotonic(), 0, 0.0
    next_report, calm = start + REPORT, STATE is None
    while not stop.is_set() and time.monotonic() - start - paused < SECONDS:
        if not calm and time.monotonic() - start > min(SECONDS / 2, 15):
            calm = True
            await asyncio.gather(*running)
            begun = time.monotonic()
            await shop.tally.timed("outage of the database", outage(shop.http))
            paused = time.monotonic() - begun
            next_report += paused
        await room.acquire()
        task = asyncio.create_task(shop.turn(number))
        running.add(task)
        task.add_done_callback(lambda task: (running.discard(task), room.release()))
        number += 1
        if time.monotonic() >= next_report:
            shop.tally.table()
            next_report += REPORT
        await asyncio.sleep(max(0.0, start + paused + number / RATE - time.monotonic()))
    await asyncio.gather(*running)


async def main():
    stop, tally = asyncio.Event(), Tally()
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    limits = httpx.Limits(max_connections=100)
    names = ("users", "orders", "recommendations-grpc")
    channels = {name: grpc.aio.insecure_channel(f"{name}:80") for name in names}
    mounts = {"http://127.0.0.1": None, "http://": httpx.AsyncHTTPTransport(proxy=PROXY, limits=limits)}
    async with httpx.AsyncClient(timeout=10, mounts=mounts, trust_env=False) as http:
        shop = Shop(http, channels, tally)
        await ready(shop)
        listener = asyncio.create_task(listen(tally))
        await asyncio.sleep(0.5)
        await load(shop, stop)
        deadline = time.monotonic() + 30
        found = await verify(tally, http)
        while not all(holds for *_, holds in found) and time.monotonic() < deadline:
            await asyncio.sleep(1)
            found = await verify(tally, http)
        listener.cancel()
        tally.table()
    for channel in channels.values():
        await channel.close()
    print(f"\n  {'':46s} wanted   found")
    for what, wanted, seen, holds in found:
        print(f"  {what:46s} {wanted:6d}  {seen:6d}   {'ok' if holds else 'WRONG'}")
    failed = sum(map(len, tally.failures.values()))
    done = sum(map(len, tally.took.values()))
    print(f"\n  in all: {done} done, {failed} failed", flush=True)
    return 0 if tally.orders and not failed and all(holds for *_, holds in found) else 1


async def ready(shop):
    """Waits until all three answer."""
    for _ in range(60):
        try:
            await shop.suggest("1")
            await shop.watch(1)
            await shop.rest("GET", "http://orders/v1/orders")
            return
        except (grpc.RpcError, httpx.HTTPError, AssertionError) as error:
            why = explain(error)
            await asyncio.sleep(0.5)
    sys.exit(f"the shop does not answer: {why}")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
