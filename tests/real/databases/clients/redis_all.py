"""What redis-py does beside plain commands: redis_all.py PORT QUIET."""

import sys
import threading
import time

import redis

PORT, QUIET = int(sys.argv[1]), float(sys.argv[2])


def connect():
    return redis.Redis(port=PORT, single_connection_client=True, decode_responses=True)


def publish():
    listener = connect().pubsub()
    listener.subscribe("news")
    assert listener.get_message(timeout=10)["type"] == "subscribe"
    time.sleep(QUIET / 2)
    speaker = connect()
    for number in range(1000):
        assert speaker.publish("news", number) == 1
    got = []
    while len(got) < 1000:
        message = listener.get_message(timeout=10)
        assert message is not None, f"only {len(got)} came"
        got.append(int(message["data"]))
    assert got == list(range(1000))
    listener.close()
    return "1000 messages published and heard, in order"


def block():
    """A client that waits is not cut while nothing comes."""
    waiting, pusher = connect(), connect()
    got = []
    waiter = threading.Thread(target=lambda: got.append(waiting.blpop(["jobs"], timeout=60)))
    waiter.start()
    time.sleep(QUIET)
    pusher.rpush("jobs", "one")
    waiter.join()
    assert got == [("jobs", "one")], got
    return f"BLPOP answered after {QUIET} quiet seconds"


def pool():
    clients = [connect() for _ in range(25)]
    ids = [client.client_id() for client in clients]
    time.sleep(QUIET)
    for _ in range(3):
        assert [client.client_id() for client in clients] == ids
    return f"25 connections used again after {QUIET} s"


def large():
    client, value = connect(), "v" * (8 << 20)
    client.set("large", value)
    assert client.get("large") == value
    pipe = client.pipeline(transaction=True)
    for number in range(2000):
        pipe.incr("sum", number)
    assert pipe.execute()[-1] == sum(range(2000))
    return "8 MiB both ways, a transaction of 2000 commands"


for part in (publish, block, pool, large):
    print("redis:", part())
