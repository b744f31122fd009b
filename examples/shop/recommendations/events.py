"""`user.created` from RabbitMQ; orders from Kafka, and gifts to it.

Nothing is acknowledged or committed before the database has it, so what fails
comes again, and everything here may be done twice.
"""

import asyncio
import json
import logging
import os

import aio_pika
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError

import database
from rpc import suggestion

log = logging.getLogger("events")

# Every so many-th event fails when it comes for the first time: it shows that
# it comes again. 0: none.
FAIL_EVERY = int(os.environ.get("FAIL_EVERY", "0"))
PAUSE = 0.5
counts = {"user.created": {"acknowledged": 0, "requeued": 0, "redelivered": 0}, "orders": {"committed": 0, "again": 0}}


async def subscribe():
    """The connection, which comes again by itself, and the queue."""
    connection = await aio_pika.connect_robust(os.environ["RABBITMQ_URL"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=20)
    exchange = await channel.declare_exchange("shop", aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue("recommendations", durable=True)
    await queue.bind(exchange, "user.created")
    return connection, queue


async def take_users(queue):
    """Keeps what each new user likes; the event goes back if that fails."""
    count = counts["user.created"]
    async with queue.iterator() as messages:
        async for message in messages:
            number = count["acknowledged"] + count["requeued"] + 1
            try:
                async with message.process(requeue=True):
                    if FAIL_EVERY and number % FAIL_EVERY == 0 and not message.redelivered:
                        raise RuntimeError("fails on purpose")
                    await database.keep_taste(json.loads(message.body))
                count["acknowledged"] += 1
                count["redelivered"] += bool(message.redelivered)
            except (RuntimeError, OSError, SQLAlchemyError) as error:
                count["requeued"] += 1
                log.info("user.created goes back: %r", error)
                await asyncio.sleep(0 if isinstance(error, RuntimeError) else PAUSE)


def make_topics(brokers):
    """Both may be there already."""
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    try:
        admin.create_topics(["orders", "gifts"], raise_errors=False)
        admin.wait_for_topics(["orders", "gifts"])
    finally:
        admin.close()


async def take_orders():
    """Chooses a gift for each order; kafka-python blocks, so it has a thread."""
    brokers = os.environ["KAFKA_BROKERS"]
    await asyncio.to_thread(make_topics, brokers)
    consumer = await asyncio.to_thread(
        KafkaConsumer,
        "orders",
        bootstrap_servers=brokers,
        group_id="recommendations",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metadata_max_age_ms=1000,
    )
    # kafka-python 3.0 waits for ever for a topic that it hears of while it joins the group.
    while not await asyncio.to_thread(consumer.partitions_for_topic, "orders"):
        await asyncio.sleep(PAUSE)
    producer = await asyncio.to_thread(KafkaProducer, bootstrap_servers=brokers, acks="all", linger_ms=2)
    while True:
        batches = await asyncio.to_thread(consumer.poll, timeout_ms=200)
        records = [record for batch in batches.values() for record in batch]
        if not records:
            continue
        try:
            await give(producer, [json.loads(record.value) for record in records])
            await asyncio.to_thread(consumer.commit)
            counts["orders"]["committed"] += len(records)
        except (OSError, KafkaError, SQLAlchemyError) as error:
            log.warning("%d orders are taken again: %r", len(records), error)
            counts["orders"]["again"] += len(records)
            for partition, batch in batches.items():
                consumer.seek(partition, batch[0].offset)
            await asyncio.sleep(PAUSE)


async def give(producer, orders):
    chosen = []
    for order in orders:
        liked = (await suggestion(order["user"])).items
        chosen.append((order["order"], liked[order["order"] % len(liked)] if liked else "a card"))
    await database.keep_gifts(chosen)
    sent = [
        producer.send("gifts", key=str(order).encode(), value=json.dumps({"order": order, "gift": gift}).encode())
        for order, gift in chosen
    ]
    await asyncio.to_thread(lambda: [one.get(timeout=10) for one in sent])
