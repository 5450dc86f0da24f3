"""An HTTP service over a finished run or an export: ``POST /recommend`` and ``GET /health``.

    pip install "recbole-sid[serve]"
    python examples/serve.py EXPORT --port 8000
    curl -H 'Content-Type: application/json' -d '{"history": ["i1", "i2"], "k": 5}' \\
        localhost:8000/recommend

With uvicorn's own options: ``RECBOLE_SID_EXPORT=EXPORT uvicorn --factory --app-dir examples
serve:app``. It knows neither TLS nor who may ask: let a proxy in front of it see to both.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recbole_sid.errors import InputError
from recbole_sid.model.filters import read_allowed
from recbole_sid.serving.recommender import Recommender

logger = logging.getLogger("uvicorn.error")

MOST_BYTES = 64 * 1024  # of a request's body
MOST_ITEMS = 500  # in a history
MOST_CHARACTERS = 200  # of an id
LONGEST_LIST = 100  # and no longer than the run's beam_size
WAITING_PER_THREAD = 16  # requests that wait for a thread; further ones are turned away
CONNECTIONS = 256

Id = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


class Query(BaseModel):
    """What is asked for: a list after a history, oldest item first."""

    model_config = ConfigDict(extra="forbid", strict=True)

    history: Annotated[list[Id], Field(min_length=1, max_length=MOST_ITEMS)]
    k: Annotated[int, Field(ge=1, le=LONGEST_LIST)] = 10
    user: Id | None = None
    exclude_history: bool | None = None
    now: float | None = None


class Reply(BaseModel):
    """Items best first, their log-likelihoods, and the ids of the history that were skipped."""

    items: list[str]
    scores: list[float]
    unknown: list[str]


class Health(BaseModel):
    status: str
    items: int
    busy: int


def create_app(
    recommender: Recommender,
    threads: int = 2,
    timeout: float = 5.0,
    allowed: list[str] | None = None,
) -> FastAPI:
    """The service.

    Args:
        threads: requests that are computed at once, each on one core.
        timeout: seconds until a request that has no answer is given up.
        allowed: raw ids of the only items that any list may hold.
    """
    rule = None if allowed is None else recommender.filter(allowed)
    busy = 0

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool = ThreadPoolExecutor(threads, "rank", torch.set_num_threads, (1,))
        yield
        app.state.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="recbole_sid", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(BodyLimit, most_bytes=MOST_BYTES, seconds=timeout)

    @app.get("/health")
    async def health() -> Health:
        return Health(status="ok", items=recommender.n_items, busy=busy)

    @app.post("/recommend")
    async def recommend(query: Query) -> Reply:
        nonlocal busy
        if busy >= threads * (1 + WAITING_PER_THREAD):
            raise HTTPException(503, "too many requests at once: try again", {"Retry-After": "1"})
        now = query.now
        if now is None and recommender.rules.timed:
            now = time.time()
        ask = partial(
            recommender.recommend,
            query.history,
            query.k,
            query.user,
            query.exclude_history,
            rule,
            now,
        )
        busy += 1
        try:
            # One that still waits for a thread when its time is up is never begun.
            answer = asyncio.get_running_loop().run_in_executor(app.state.pool, ask)
            items, scores, unknown = await asyncio.wait_for(answer, timeout)
        except asyncio.TimeoutError as error:
            raise HTTPException(504, "no answer in time: try again") from error
        finally:
            busy -= 1
        return Reply(items=items, scores=scores.tolist(), unknown=unknown)

    @app.exception_handler(InputError)
    async def refused(_: Any, error: InputError) -> JSONResponse:
        return _error(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Any, error: RequestValidationError) -> JSONResponse:
        # The first fault alone, and not what was sent: it may be long.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")[:MOST_CHARACTERS]
        return _error(422, f"{where}: {first['msg']}" if where else str(first["msg"]))

    @app.exception_handler(HTTPException)
    async def http_error(_: Any, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Any, error: Exception) -> JSONResponse:
        return _error(500, "internal error")

    return app


class BodyLimit:
    """Reads a request's body before anything else sees it: no longer and no slower than allowed."""

    def __init__(self, app: ASGIApp, most_bytes: int, seconds: float):
        self.app, self.most_bytes, self.seconds = app, most_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), self.seconds)
        except asyncio.TimeoutError:
            await _error(408, "the body did not arrive in time")(scope, receive, send)
            return
        except ValueError as error:
            await _error(413, str(error), {"Connection": "close"})(scope, receive, send)
            return
        if body is None:
            return
        left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return left.pop() if left else await receive()

        await self.app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None when the client has gone."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.most_bytes:
                raise ValueError(f"the body is longer than {self.most_bytes} bytes")
            if not message.get("more_body", False):
                return body


def _error(status: int, text: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)


def app() -> FastAPI:
    """For ``uvicorn --factory``; the folder is in the environment, RECBOLE_SID_EXPORT."""
    return create_app(Recommender.load(os.environ["RECBOLE_SID_EXPORT"], "cpu", MOST_ITEMS))


def main() -> int:
    parser = argparse.ArgumentParser(description="Recommend over HTTP.")
    parser.add_argument("folder", help="an export, or the folder of a finished run")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a request")
    parser.add_argument("--allowed_items", help="a file of the only ids to recommend, one a line")
    options = parser.parse_args()
    if options.threads < 1 or options.timeout <= 0:
        parser.error("--threads must be at least 1, and --timeout above 0")
    try:
        ids = None if options.allowed_items is None else read_allowed(options.allowed_items)
        recommender = Recommender.load(options.folder, "cpu", MOST_ITEMS)
        service = create_app(recommender, options.threads, options.timeout, ids)
    except InputError as error:
        print("error:", error, file=sys.stderr)
        return 2
    uvicorn.run(
        service,
        host=options.host,
        port=options.port,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
