"""grpcio's side of the interoperability cases.

interop.py server                         a server of grpc.testing.TestService
interop.py health                         a server of grpc.health.v1.Health; reads
                                          lines such as `shop.v1.Users NOT_SERVING`
interop.py client TARGET AUTHORITY CASE…  runs cases; AUTHORITY may be -
interop.py errors TARGET AUTHORITY        one call that fails: what the library makes of it

A server prints `listening ADDRESS`. Proxy variables hold, as in every program
that uses grpcio.
"""

import concurrent.futures
import json
import os
import pathlib
import sys
import threading

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import grpc  # noqa: E402

messages, services = grpc.protos_and_services("interop.proto")

REQUESTS = [27182, 8, 1828, 45904]
RESPONSES = [31415, 9, 2653, 58979]
LIMIT = 20
ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"


def payload(size):
    return messages.Payload(body=bytes(size))


# The server.


def echo_metadata(context):
    for key, value in context.invocation_metadata():
        if key == ECHO_INITIAL:
            context.send_initial_metadata([(key, value)])
        elif key == ECHO_TRAILING:
            context.set_trailing_metadata([(key, value)])


def refuse(status, context):
    if status.code:
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        context.abort(code, status.message)


class TestService(services.TestServiceServicer):
    def EmptyCall(self, request, context):
        return messages.Empty()

    def UnaryCall(self, request, context):
        echo_metadata(context)
        refuse(request.response_status, context)
        return messages.SimpleResponse(payload=payload(request.response_size))

    def StreamingOutputCall(self, request, context):
        for wanted in request.response_parameters:
            yield messages.StreamingOutputCallResponse(payload=payload(wanted.size))

    def StreamingInputCall(self, requests, context):
        total = sum(len(request.payload.body) for request in requests)
        return messages.StreamingInputCallResponse(aggregated_payload_size=total)

    def FullDuplexCall(self, requests, context):
        echo_metadata(context)
        for request in requests:
            refuse(request.response_status, context)
            for wanted in request.response_parameters:
                yield messages.StreamingOutputCallResponse(payload=payload(wanted.size))


def serve(add):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=64))
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"listening 127.0.0.1:{port}", flush=True)
    return server


def serve_health():
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.HealthServicer()
    server = serve(lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server))
    for line in sys.stdin:
        name, status = line.rstrip("\n").rsplit(" ", 1)
        servicer.set(name, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
        print(f"set {line.rstrip()}", flush=True)
    server.stop(None)


# The cases, each with a stub of its own channel.


def check(got, wanted):
    assert got == wanted, f"{got!r} in place of {wanted!r}"


def fails(call, code, message=None):
    try:
        call()
    except grpc.RpcError as error:
        check(error.code(), code)
        if message is not None:
            check(error.details(), message)
    else:
        raise AssertionError("it did not fail")


def duplex_request(request, response):
    wanted = [messages.ResponseParameters(size=response)]
    return messages.StreamingOutputCallRequest(response_parameters=wanted, payload=payload(request))


class Turns:
    """Requests that are given one by one."""

    def __init__(self):
        self.news = threading.Semaphore(0)
        self.waiting = []

    def send(self, request):
        self.waiting.append(request)
        self.news.release()

    def __iter__(self):
        return self

    def __next__(self):
        self.news.acquire()
        request = self.waiting.pop(0)
        if request is None:
            raise StopIteration
        return request


def empty_unary(stub):
    check(stub.EmptyCall(messages.Empty(), timeout=LIMIT), messages.Empty())


def large_unary(stub):
    request = messages.SimpleRequest(response_size=314159, payload=payload(271828))
    check(stub.UnaryCall(request, timeout=LIMIT).payload.body, bytes(314159))


def client_streaming(stub):
    requests = (messages.StreamingInputCallRequest(payload=payload(size)) for size in REQUESTS)
    check(stub.StreamingInputCall(requests, timeout=LIMIT).aggregated_payload_size, sum(REQUESTS))


def server_streaming(stub):
    wanted = [messages.ResponseParameters(size=size) for size in RESPONSES]
    request = messages.StreamingOutputCallRequest(response_parameters=wanted)
    answers = stub.StreamingOutputCall(request, timeout=LIMIT)
    check([len(answer.payload.body) for answer in answers], RESPONSES)


def ping_pong(stub):
    turns = Turns()
    answers = stub.FullDuplexCall(turns, timeout=LIMIT)
    for request, response in zip(REQUESTS, RESPONSES):
        turns.send(duplex_request(request, response))
        check(len(next(answers).payload.body), response)
    turns.send(None)
    check(list(answers), [])


def empty_stream(stub):
    check(list(stub.FullDuplexCall(iter(()), timeout=LIMIT)), [])


def timeout_on_sleeping_server(stub):
    # The server's clock may be the first to run out; then it resets the call.
    for _ in range(20):
        turns = Turns()
        turns.send(messages.StreamingOutputCallRequest(payload=payload(27182)))
        call = stub.FullDuplexCall(turns, timeout=0.001)
        try:
            list(call)
            raise AssertionError("it was answered")
        except grpc.RpcError as error:
            code = error.code()
        turns.send(None)
        if code != grpc.StatusCode.CANCELLED:
            break
    check(code, grpc.StatusCode.DEADLINE_EXCEEDED)


def cancel_after_begin(stub):
    turns = Turns()
    call = stub.StreamingInputCall.future(turns)
    call.cancel()
    turns.send(None)
    assert call.cancelled()
    check(call.code(), grpc.StatusCode.CANCELLED)


def cancel_after_first_response(stub):
    turns = Turns()
    call = stub.FullDuplexCall(turns, timeout=LIMIT)
    turns.send(duplex_request(27182, 31415))
    check(len(next(call).payload.body), 31415)
    call.cancel()
    turns.send(None)
    fails(lambda: next(call), grpc.StatusCode.CANCELLED)


def status_code_and_message(stub):
    status = messages.EchoStatus(code=2, message="test status message")
    request = messages.SimpleRequest(response_status=status)
    fails(lambda: stub.UnaryCall(request, timeout=LIMIT), grpc.StatusCode.UNKNOWN, status.message)
    request = messages.StreamingOutputCallRequest(response_status=status)
    call = stub.FullDuplexCall(iter([request]), timeout=LIMIT)
    fails(lambda: list(call), grpc.StatusCode.UNKNOWN, status.message)


def special_status_message(stub):
    message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
    status = messages.EchoStatus(code=2, message=message)
    request = messages.SimpleRequest(response_status=status)
    fails(lambda: stub.UnaryCall(request, timeout=LIMIT), grpc.StatusCode.UNKNOWN, message)


def custom_metadata(stub):
    sent = [(ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab\x00\xff")]

    def both_came(call):
        assert sent[0] in [tuple(pair) for pair in call.initial_metadata()], call.initial_metadata()
        assert sent[1] in [tuple(pair) for pair in call.trailing_metadata()], call.trailing_metadata()

    request = messages.SimpleRequest(response_size=314159, payload=payload(271828))
    answer, call = stub.UnaryCall.with_call(request, metadata=sent, timeout=LIMIT)
    check(len(answer.payload.body), 314159)
    both_came(call)
    call = stub.FullDuplexCall(iter([duplex_request(271828, 314159)]), metadata=sent, timeout=LIMIT)
    check([len(answer.payload.body) for answer in call], [314159])
    both_came(call)


def unimplemented_method(stub):
    call = stub.UnimplementedCall
    fails(lambda: call(messages.Empty(), timeout=LIMIT), grpc.StatusCode.UNIMPLEMENTED)


def unimplemented_service(stub):
    call = services.UnimplementedServiceStub(stub.channel).UnimplementedCall
    fails(lambda: call(messages.Empty(), timeout=LIMIT), grpc.StatusCode.UNIMPLEMENTED)


# The client.


def connect(target, authority):
    # A channel of its own for each case, not one of the process.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    if authority != "-":
        options.append(("grpc.default_authority", authority))
    channel = grpc.insecure_channel(target, options)
    stub = services.TestServiceStub(channel)
    stub.channel = channel
    return stub


def run(target, authority, name):
    stub = connect(target, authority)
    try:
        globals()[name](stub)
    except Exception as error:  # whatever it is, it is told
        return f"{type(error).__name__}: {error}"
    finally:
        stub.channel.close()
    return None


def run_all(target, authority, names):
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=4)
    running = {name: pool.submit(run, target, authority, name) for name in names}
    failed = False
    for name, outcome in running.items():
        try:
            why = outcome.result(timeout=LIMIT)
        except concurrent.futures.TimeoutError:
            why = f"still at it after {LIMIT} s"
        print(f"{name} {why or 'ok'}", flush=True)
        failed |= why is not None
    os._exit(1 if failed else 0)


def tell_error(target, authority):
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    details = []
    try:
        connect(target, authority).EmptyCall(messages.Empty(), timeout=LIMIT)
        sys.exit("the call did not fail")
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            details.append({"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)})
        elif detail.Unpack(retry):
            details.append({"retry_ms": retry.retry_delay.ToMilliseconds()})
    print(json.dumps({"code": status.code, "message": status.message, "details": details}))


def main(command, *words):
    if command == "server":
        add = services.add_TestServiceServicer_to_server
        serve(lambda server: add(TestService(), server)).wait_for_termination()
    elif command == "health":
        serve_health()
    elif command == "client":
        run_all(words[0], words[1], words[2:])
    elif command == "errors":
        tell_error(*words)


if __name__ == "__main__":
    main(*sys.argv[1:])
