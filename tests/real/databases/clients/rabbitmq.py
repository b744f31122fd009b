"""Confirmed and acknowledged messages: rabbitmq.py PORT QUIET COUNT."""

import sys
import threading
import time

import pika

PORT, QUIET, COUNT = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])


def connect(heartbeat=60):
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", PORT, heartbeat=heartbeat))


def publish(queue, failed):
    """Each message is confirmed before the next is sent."""
    try:
        connection = connect()
        channel = connection.channel()
        channel.confirm_delivery()
        for number in range(COUNT):
            # Raises if it is not confirmed, or reaches no queue.
            channel.basic_publish("", queue, f"{number}:".encode() + b"x" * (number % 2000), mandatory=True)
        connection.close()
    except BaseException as error:
        failed.append(error)
        raise


def messages():
    """Every message comes and is acknowledged once, also those that are first put back."""
    connection = connect()
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=False, auto_delete=False).method.queue
    channel.basic_qos(prefetch_count=100)
    failed, taken, back, again = [], {}, set(), set()
    publisher = threading.Thread(target=publish, args=(queue, failed))
    publisher.start()
    begun = time.monotonic()
    for method, _, body in channel.consume(queue, inactivity_timeout=30):
        assert method is not None and not failed, f"nothing came; {len(taken)} were taken; {failed}"
        word, _, rest = body.partition(b":")
        number = int(word)
        assert rest == b"x" * (number % 2000)
        if number % 10 == 0 and number not in back:
            assert not method.redelivered
            back.add(number)
            channel.basic_nack(method.delivery_tag, requeue=True)
            continue
        if number in back:
            assert method.redelivered, f"{number} was put back and comes as a new one"
            again.add(number)
        taken[number] = taken.get(number, 0) + 1
        channel.basic_ack(method.delivery_tag)
        if len(taken) == COUNT:
            break
    publisher.join()
    took = time.monotonic() - begun
    channel.cancel()
    assert taken == {number: 1 for number in range(COUNT)}
    assert again == back == set(range(0, COUNT, 10))
    left = channel.queue_declare(queue, passive=True).method.message_count
    assert left == 0, f"{left} are left"
    channel.queue_delete(queue)
    connection.close()
    return f"{COUNT} messages confirmed, {COUNT} acknowledged, {len(back)} put back and taken again, in {took:.1f} s"


def heartbeats():
    """A connection on which only heartbeats go stays open."""
    connection = connect(heartbeat=1)
    quiet = max(QUIET, 3)
    connection.sleep(quiet)
    connection.channel().queue_declare("beats", exclusive=True)
    connection.close()
    return f"{quiet} s with nothing but heartbeats, one each 0.5 s"


def pool():
    connections = [connect() for _ in range(25)]
    channels = [connection.channel() for connection in connections]
    time.sleep(QUIET)
    for number, channel in enumerate(channels):
        channel.queue_declare(f"pool{number}", exclusive=True)
    for connection in connections:
        connection.close()
    return f"25 connections used again after {QUIET} s"


for part in (messages, heartbeats, pool):
    print("rabbitmq:", part())
