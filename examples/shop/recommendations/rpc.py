"""gRPC: `shop.v1.Recommendations` served, `Users` watched.

grpcio takes the way to `users:80` from the usual proxy variables.
"""

import asyncio
import logging

import grpc
import shop_pb2
import shop_pb2_grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

import database
from main import GOODS

log = logging.getLogger("rpc")

# Everybody of whom `users` has told since the start.
people = {}


class Recommendations(shop_pb2_grpc.RecommendationsServicer):
    async def Suggest(self, questions, context):
        async for question in questions:
            if not question.user:
                await context.abort_with_status(rpc_status.to_status(about_nobody()))
            yield await suggestion(question.user)


def about_nobody():
    """An error that a program can read: its reason, and whose reason it is."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="USER_MISSING", domain="shop.v1"))
    return status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="a question is about a user", details=[detail])


async def suggestion(user):
    known = people.get(user)
    favourite = await database.taste(user) or (known.favourite if known else "")
    name = known.name if known else ""
    return shop_pb2.Suggestion(user=user, name=name, items=GOODS.get(favourite, []))


async def serve(port):
    server = grpc.aio.server()
    shop_pb2_grpc.add_RecommendationsServicer_to_server(Recommendations(), server)
    if not server.add_insecure_port(f"127.0.0.1:{port}"):
        raise OSError(f"port {port} is taken")
    await server.start()
    return server


async def watch_users():
    """Hears of everybody from `users`, as long as this service runs."""
    async with grpc.aio.insecure_channel("users:80") as channel:
        users = shop_pb2_grpc.UsersStub(channel)
        while True:
            try:
                async for user in users.Watch(shop_pb2.WatchUsersRequest()):
                    people[user.id] = user
            except grpc.aio.AioRpcError as error:
                log.info("users: %s %s", error.code().name, error.details())
            await asyncio.sleep(1)
