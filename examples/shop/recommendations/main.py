"""The second service of the shop: what a user may like.

It asks `users` who the user is. Plain FastAPI and httpx; the only address is
`http://users/`, and httpx takes the way there from the usual proxy variables.
"""

import logging
import os
import time
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request

GOODS = {
    "tea": ["a pot", "a strainer", "Darjeeling"],
    "coffee": ["a grinder", "a filter", "Yirgacheffe"],
}

log = logging.getLogger("recommendations")


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with httpx.AsyncClient(timeout=5) as client:
        app.state.client = client
        yield


app = FastAPI(title="recommendations", lifespan=lifespan)


@app.middleware("http")
async def logged(request: Request, call_next):
    """Writes one line for each request but those for health."""
    start = time.perf_counter()
    response = await call_next(request)
    if request.url.path != "/health":
        took = (time.perf_counter() - start) * 1000
        log.info("%s %s %d %.1fms", request.method, request.url.path, response.status_code, took)
    return response


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.get("/v1/recommendations/{user}")
async def recommendations(user: str, request: Request):
    client: httpx.AsyncClient = request.app.state.client
    try:
        reply = await client.get(f"http://users/v1/users/{quote(user, safe='')}")
    except httpx.HTTPError as error:
        raise HTTPException(502, f"users: {error!r}") from error
    if reply.status_code == 404:
        raise HTTPException(404, "no such user")
    if reply.status_code != 200:
        raise HTTPException(502, f"users answered {reply.status_code}")
    favourite = reply.json()["favourite"]
    return {"user": user, "items": GOODS.get(favourite, [])}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ.get("PORT", "8082")),
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=10,
    )
