"""The shop's users with grpcio: `server.py FOLDER` serves files of FOLDER too.

Says `listening ADDRESS`, and what a page reports, each line after `report`.
"""

import pathlib
import sys
import time
from concurrent import futures

root = pathlib.Path(__file__).resolve().parents[3]
sys.path.append(str(root / "tests/protos"))

import grpc
from google.api import httpbody_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

shop, services = grpc.protos_and_services("shop/v1/shop.proto")
KINDS = {".html": "text/html", ".js": "text/javascript"}


def fail(context, code, message="this was asked for"):
    """Ends the call with a status that has details."""
    status = status_pb2.Status(code=code, message=message)
    violation = error_details_pb2.BadRequest.FieldViolation(field="id", description="asked for")
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    context.abort_with_status(rpc_status.to_status(status))


class Users(services.UsersServicer):
    def __init__(self, folder):
        self.folder = folder

    def Get(self, request, context):
        context.send_initial_metadata((("x-meta", "m"),))
        context.set_trailing_metadata((("x-late", "l"),))
        if request.fail:
            fail(context, request.fail, f"nobody {request.id} \N{EURO SIGN}")
        return shop.User(id=request.id, full_name="Ada", tags=["a"], level=shop.ADMIN)

    Plain = Merge = Find = Get

    def List(self, request, context):
        users = [shop.User(id=number) for number in request.filter.ages]
        return shop.ListReply(users=users, names=list(request.tags), count=request.page_size)

    Names = List

    def Create(self, request, context):
        request.user.tags.append(request.request_id)
        return request.user

    def Update(self, request, context):
        request.user.tags.extend(request.mask.paths)
        return request.user

    def Delete(self, request, context):
        return empty_pb2.Empty()

    def Book(self, request, context):
        return request

    def Everything(self, request, context):
        if request.string_field.startswith("report\n"):
            for line in request.string_field.splitlines()[1:]:
                print("report", line, flush=True)
            print("report end", flush=True)
        return request

    def Watch(self, request, context):
        for number in range(request.count):
            if number:
                time.sleep(request.pause / 1000)
            yield shop.User(id=number + 1)
        if request.fail:
            fail(context, request.fail)

    def Upload(self, request_iterator, context):
        names = [user.full_name for user in request_iterator]
        return shop.ListReply(names=names, count=len(names))

    def Chat(self, request_iterator, context):
        for user in request_iterator:
            user.id += 1
            yield user

    def Download(self, request, context):
        path = self.folder / request.name
        if not path.is_file():
            fail(context, code_pb2.NOT_FOUND, f"no file {request.name}")
        return httpbody_pb2.HttpBody(content_type=KINDS[path.suffix], data=path.read_bytes())

    def Store(self, request, context):
        return request


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    services.add_UsersServicer_to_server(Users(pathlib.Path(sys.argv[1])), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"listening 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


main()
