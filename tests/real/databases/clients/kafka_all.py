"""Records with every acknowledgement, consumed with manual commits: kafka_all.py PORT QUIET COUNT."""

import sys
import time
import uuid

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

PORT, QUIET, COUNT = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
TO = f"127.0.0.1:{PORT}"
TOPIC, GROUP = f"python-{uuid.uuid4()}", f"group-{uuid.uuid4()}"


def body(number):
    return f"{number}:".encode() + b"x" * (500 + number % 1000)


def produce():
    producer = KafkaProducer(bootstrap_servers=TO, acks="all", retries=0, enable_idempotence=False, linger_ms=2)
    sent = [producer.send(TOPIC, body(number)) for number in range(COUNT)]
    offsets = [future.get(timeout=60).offset for future in sent]
    assert sorted(offsets) == list(range(COUNT))
    nodes = {(node.host, node.port) for node in producer._sender._client.cluster.brokers()} if hasattr(producer, "_sender") else set()
    assert nodes <= {("127.0.0.1", PORT)}, nodes
    time.sleep(QUIET)
    # The same connections, after they were quiet.
    producer.send(TOPIC, body(COUNT)).get(timeout=10)
    producer.close()
    return f"{COUNT + 1} records acknowledged"


def consumer():
    return KafkaConsumer(
        TOPIC, bootstrap_servers=TO, group_id=GROUP, enable_auto_commit=False, auto_offset_reset="earliest",
    )


def consume():
    """Half by one consumer, which commits and leaves; the rest by the next. Each comes once."""
    taken = {}
    for share in (COUNT // 2, COUNT + 1):
        reader = consumer()
        deadline = time.monotonic() + 60
        while len(taken) < share:
            assert time.monotonic() < deadline, f"only {len(taken)} came"
            for records in reader.poll(timeout_ms=1000, max_records=min(100, share - len(taken))).values():
                for record in records:
                    number = int(record.value.partition(b":")[0])
                    assert record.value == body(number)
                    taken[number] = taken.get(number, 0) + 1
            reader.commit()
        committed = reader.committed(TopicPartition(TOPIC, 0))
        assert committed == share, (committed, share)
        reader.close()
    assert taken == {number: 1 for number in range(COUNT + 1)}
    last = consumer()
    assert not last.poll(timeout_ms=1000), "a record that was committed came again"
    last.close()
    return f"{len(taken)} records taken, each once, {COUNT // 2} by the first consumer"


for part in (produce, consume):
    begun = time.monotonic()
    print("kafka:", part(), f"in {time.monotonic() - begun:.1f} s")
