"""A client whose server is killed and comes back: again.py PORT KIND.

Says `works`; told that the server is killed, and that it is still down, says
the error of its driver; told that it is back, says after how long it works.
"""

import sys
import time

PORT, KIND = int(sys.argv[1]), sys.argv[2]


class Postgres:
    def __init__(self):
        import psycopg

        self.clean = (psycopg.OperationalError,)
        self.connection = psycopg.connect(host="127.0.0.1", port=PORT, user="postgres", dbname="postgres", autocommit=True)

    def use(self):
        assert self.connection.execute("select 40 + 2").fetchone() == (42,)


class Redis:
    def __init__(self):
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self.clean = (redis.ConnectionError,)
        self.connection = redis.Redis(port=PORT, single_connection_client=True, retry=Retry(NoBackoff(), 0))

    def use(self):
        assert self.connection.ping()


class Rabbitmq:
    def __init__(self):
        import pika

        self.clean = (pika.exceptions.AMQPError,)
        self.connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", PORT))
        self.channel = self.connection.channel()

    def use(self):
        self.channel.queue_declare("again")


KINDS = {"postgres": Postgres, "redis": Redis, "rabbitmq": Rabbitmq}
CLEAN = []


def once(client=None):
    """The driver's error, as text, or None."""
    try:
        client = client or KINDS[KIND]()
        CLEAN[:] = client.clean
        client.use()
    except Exception as error:
        assert isinstance(error, tuple(CLEAN)), repr(error)
        return f"{type(error).__name__}: {error}".replace("\n", " ")
    return None


def say(*words):
    print(*words, flush=True)


client = KINDS[KIND]()
CLEAN = list(client.clean)
client.use()
say("works")
sys.stdin.readline()
say("error", once(client) or sys.exit("no error of the connection that was cut"))
sys.stdin.readline()
say("error", once() or sys.exit("no error while the server is down"))
sys.stdin.readline()
begun = time.monotonic()
while once() is not None:
    assert time.monotonic() - begun < 30, once()
    time.sleep(0.05)
say("works", time.monotonic() - begun)
