"""The second service of the shop as `make demo-full` runs it.

REST by FastAPI on PORT and gRPC by grpc.aio on GRPC_PORT. What users like comes
from RabbitMQ and is kept in PostgreSQL; for each order that Kafka tells of,
a gift is chosen and told to Kafka.
"""

import asyncio
import logging
import os
from contextlib import asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI, Response
from sqlalchemy.exc import SQLAlchemyError

import database
import events
import rpc
from main import logged

QUIET = os.environ.get("LOG") == "quiet"


@asynccontextmanager
async def lifespan(app: FastAPI):
    await database.prepare()
    # Bound before anything is told: nothing is lost.
    connection, deliveries = await events.subscribe()
    server = await rpc.serve(os.environ.get("GRPC_PORT", "8092"))
    background = [
        asyncio.create_task(rpc.watch_users()),
        asyncio.create_task(events.take_users(deliveries)),
        asyncio.create_task(events.take_orders()),
    ]
    for task in background:
        task.add_done_callback(failed)
    yield
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    await server.stop(grace=2)
    await connection.close()
    await database.engine.dispose()


def failed(task):
    """A service that has stopped to listen is no service: it is started again."""
    if not task.cancelled() and task.exception():
        logging.error("ends: %r", task.exception())
        os._exit(1)


app = FastAPI(title="recommendations", lifespan=lifespan)
if not QUIET:
    app.middleware("http")(logged)


@app.get("/health")
async def health(response: Response):
    """503 while the database does not answer."""
    try:
        async with asyncio.timeout(1):
            await database.ping()
    except (TimeoutError, OSError, SQLAlchemyError) as error:
        response.status_code = 503
        return {"status": "no database", "error": type(error).__name__}
    return {"status": "ok"}


@app.get("/v1/recommendations/{user}")
async def recommendations(user: str):
    return {"user": user, "items": (await rpc.suggestion(user)).items[:]}


@app.get("/v1/stats")
async def stats():
    """What was taken from the brokers, and what came again."""
    return events.counts


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING if QUIET else logging.INFO, format="%(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    with suppress(KeyboardInterrupt):
        uvicorn.run(
            app,
            host="127.0.0.1",
            port=int(os.environ.get("PORT", "8082")),
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=2,
        )
