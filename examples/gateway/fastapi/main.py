"""The gateway of a shop, written by hand with FastAPI: what ../pillion.yaml says
in YAML. PORT, USERS and ORDERS say where it listens and where calls go.
"""

import os
import time
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

USERS, ORDERS = f"http://{os.environ['USERS']}", f"http://{os.environ['ORDERS']}"
MAX_BODY, TIMEOUT, ORIGIN = 64 << 10, 0.5, "https://shop.example"
HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
       "te", "trailer", "transfer-encoding", "upgrade"}


@asynccontextmanager
async def clients(app):
    async with httpx.AsyncClient(timeout=None, headers={}) as app.state.client:
        yield


app = FastAPI(lifespan=clients, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)


def problem(status, reason, **headers):
    """An answer as RFC 9457 says."""
    return JSONResponse({"status": status, "reason": reason}, status, media_type="application/problem+json",
                        headers={"pillion-error": reason, **headers})


@app.exception_handler(HTTPException)
async def none(_, error):
    return problem(404, "no_route") if error.status_code in (404, 405) else problem(error.status_code, "failed")


def passed_on(headers):
    """What does not belong to one connection."""
    listed = {name.strip().lower() for value in headers.getlist("connection") for name in value.split(",")} \
        if hasattr(headers, "getlist") else set()
    return [(name, value) for name, value in headers.items() if name.lower() not in HOP | listed]


async def whole(request):
    """The body, or None where it is too large."""
    if int(request.headers.get("content-length", 0)) > MAX_BODY:
        return None
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


async def forward(request, base, tries):
    """Sends a request on to base, with /api taken from its path."""
    body = await whole(request)
    if body is None:
        return problem(413, "request_too_large")
    target = base + request.scope["raw_path"].decode().removeprefix("/api")
    if request.url.query:
        target += f"?{request.url.query}"
    headers = [(name, value) for name, value in passed_on(request.headers)
               if name not in ("x-internal", "x-from", "host", "content-length")] + [("x-from", "gateway")]
    deadline = time.monotonic() + TIMEOUT
    client = request.app.state.client
    for left in reversed(range(tries)):
        try:
            call = client.build_request(request.method, target, headers=headers, content=body,
                                        timeout=max(deadline - time.monotonic(), 0.001))
            answer = await client.send(call)
        except httpx.TimeoutException:
            return problem(504, "timeout")
        except httpx.TransportError:
            if left:
                continue
            return problem(502, "connect_refused")
        if answer.status_code not in (502, 503, 504) or not left:
            break
    out = Response(answer.content, answer.status_code)
    out.raw_headers = [(name.encode(), value.encode()) for name, value in answer.headers.multi_items()
                       if name.lower() not in HOP | {"server", "date", "content-length", "content-encoding"}]
    out.raw_headers += [(b"content-length", str(len(answer.content)).encode()), (b"x-gateway", b"shop")]
    return out


@app.middleware("http")
async def cors(request, next_):
    """Lets pages of the shop call, and answers what browsers ask before."""
    if not request.url.path.startswith("/api/"):
        return await next_(request)
    ours = request.headers.get("origin") == ORIGIN
    if ours and request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        answer = Response(status_code=204, headers={
            "access-control-allow-methods": "GET, POST, PUT, DELETE",
            "access-control-allow-headers": "content-type", "access-control-max-age": "600"})
    else:
        answer = await next_(request)
        if answer.headers.get("pillion-error") == "no_route":
            return answer
    answer.headers.append("vary", "Origin")
    if ours:
        answer.headers["access-control-allow-origin"] = ORIGIN
    return answer


BUCKETS = {}  # It grows for ever: who sweeps it?


def admitted(source, rate=1.0, burst=3):
    """Whether an address has a call left: so many a second."""
    tokens, since = BUCKETS.get(source, (float(burst), time.monotonic()))
    now = time.monotonic()
    tokens = min(burst, tokens + (now - since) * rate)
    BUCKETS[source] = (tokens - 1 if tokens >= 1 else tokens, now)
    return tokens >= 1


@app.get("/healthz")
async def healthz():
    return PlainTextResponse("ok\n")


@app.get("/")
async def home():
    return Response(status_code=302, headers={"location": "/api/users"})


@app.get("/api/users")
@app.get("/api/users/{id}")
async def users(request: Request):
    return await forward(request, USERS, 2)


@app.post("/api/orders")
async def order(request: Request):
    if not admitted(request.client.host):
        return problem(429, "rate_limited", **{"retry-after": "1"})
    return await forward(request, ORDERS, 1)


@app.get("/api/orders/{id}")
async def an_order(request: Request):
    return await forward(request, ORDERS, 2)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning",
                server_header=False)
