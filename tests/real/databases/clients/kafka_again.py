"""A producer whose broker is killed and comes back: kafka_again.py PORT COUNT."""

import sys
import time
import uuid

from kafka import KafkaConsumer, KafkaProducer

PORT, COUNT = int(sys.argv[1]), int(sys.argv[2])
TO, TOPIC = f"127.0.0.1:{PORT}", f"again-{uuid.uuid4()}"


def say(*words):
    print(*words, flush=True)


producer = KafkaProducer(bootstrap_servers=TO, acks="all", retries=1000, linger_ms=2, reconnect_backoff_max_ms=500)
sent = [producer.send(TOPIC, str(number).encode()) for number in range(COUNT)]
producer.flush(timeout=60)
say("works")
sys.stdin.readline()
sent += [producer.send(TOPIC, str(number).encode()) for number in range(COUNT, 2 * COUNT)]
say("waits")
sys.stdin.readline()
begun = time.monotonic()
sent[COUNT].get(timeout=60)
first = time.monotonic() - begun
for future in sent:
    future.get(timeout=60)
reader = KafkaConsumer(TOPIC, bootstrap_servers=TO, auto_offset_reset="earliest", consumer_timeout_ms=3000)
taken = []
for record in reader:
    taken.append(int(record.value))
    if len(set(taken)) == 2 * COUNT:
        break
assert set(taken) == set(range(2 * COUNT)), f"{2 * COUNT - len(set(taken))} acknowledged records are lost"
say(f"works {len(sent)} records acknowledged and there, {len(taken) - len(set(taken))} twice; goes on {first:.2f} s after the broker is back")
