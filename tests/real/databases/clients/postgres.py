"""What psycopg does beside plain queries: postgres.py PORT QUIET [CONNINFO]."""

import hashlib
import random
import sys
import threading
import time

import psycopg

PORT, QUIET = int(sys.argv[1]), float(sys.argv[2])
INFO = sys.argv[3] if len(sys.argv) > 3 else "dbname=postgres sslmode=prefer"


def connect(**options):
    return psycopg.connect(INFO, host="127.0.0.1", port=PORT, user="postgres", autocommit=True, **options)


def copy():
    """A few MB in with COPY, and out again."""
    rows = [(number, random.randbytes(500).hex()) for number in range(6000)]
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("create temp table copied (number int, word text)")
        with cursor.copy("copy copied from stdin") as into:
            for row in rows:
                into.write_row(row)
        with cursor.copy("copy (select * from copied order by number) to stdout") as out:
            back = b"".join(bytes(block) for block in out)
    wanted = "".join(f"{number}\t{word}\n" for number, word in rows).encode()
    assert hashlib.sha256(back).digest() == hashlib.sha256(wanted).digest(), "COPY gave other bytes back"
    return f"COPY {len(back)} bytes each way"


def notify():
    """Notifications come while nothing is asked."""
    with connect() as listener, connect() as speaker:
        listener.execute("listen news")
        got = []
        reader = threading.Thread(
            target=lambda: got.extend(note.payload for note in listener.notifies(timeout=30, stop_after=100))
        )
        reader.start()
        time.sleep(QUIET / 2)
        for number in range(100):
            speaker.execute("select pg_notify('news', %s)", [str(number)])
        reader.join()
    assert got == [str(number) for number in range(100)], got
    return "LISTEN: 100 notifications"


def cancel():
    """The request to cancel comes on a connection of its own."""
    with connect() as asleep, connect() as watcher:
        pid = asleep.info.backend_pid
        told = []

        def sleep():
            try:
                asleep.execute("select pg_sleep(60)")
            except psycopg.errors.QueryCanceled as error:
                told.append(error)

        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        query = "select count(*) from pg_stat_activity where pid = %s and state = 'active' and query like '%%pg_sleep%%'"
        while watcher.execute(query, [pid]).fetchone() != (1,):
            time.sleep(0.02)
        begun = time.monotonic()
        asleep.cancel_safe()
        sleeper.join()
        took = time.monotonic() - begun
        assert told and took < 10, (told, took)
        assert asleep.execute("select 1").fetchone() == (1,), "the connection goes on after the cancel"
    return f"cancelled after {took * 1000:.0f} ms"


def pool():
    """25 connections that are quiet, then used again: each is still the same."""
    connections = [connect() for _ in range(25)]
    pids = [connection.info.backend_pid for connection in connections]
    time.sleep(QUIET)
    for _ in range(3):
        for connection, pid in zip(connections, pids):
            assert connection.execute("select pg_backend_pid()").fetchone() == (pid,)
    for connection in connections:
        connection.close()
    return f"25 connections used again after {QUIET} s"


for part in (copy, notify, cancel, pool):
    print("postgres:", part())
