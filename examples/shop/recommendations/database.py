"""What users like, and the gifts for their orders, in PostgreSQL.

The address is that of a local port, behind which the sidecar finds the server.
"""

import os

from sqlalchemy import BigInteger, Column, MetaData, String, Table, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import create_async_engine

# A connection that died with its server is replaced before it is used.
engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=25, max_overflow=0, pool_pre_ping=True)
metadata = MetaData()
tastes = Table(
    "tastes",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("favourite", String, nullable=False),
)
gifts = Table(
    "gifts",
    metadata,
    Column("order_id", BigInteger, primary_key=True, autoincrement=False),
    Column("gift", String, nullable=False),
)


async def prepare():
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)


async def ping():
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))


async def keep_taste(user):
    """Keeps what a user likes; may be done again."""
    row = {"user_id": user["id"], "name": user["name"], "favourite": user["favourite"]}
    async with engine.begin() as connection:
        await connection.execute(insert(tastes).values(row).on_conflict_do_nothing())


async def taste(user):
    """What the user likes, or None."""
    async with engine.connect() as connection:
        return await connection.scalar(select(tastes.c.favourite).where(tastes.c.user_id == user))


async def keep_gifts(chosen):
    """Keeps the gift of each order; may be done again."""
    rows = [{"order_id": order, "gift": gift} for order, gift in chosen]
    async with engine.begin() as connection:
        await connection.execute(insert(gifts).on_conflict_do_nothing(), rows)
