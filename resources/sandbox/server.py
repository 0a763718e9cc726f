"""One server for all twins: their mounting, the fault plans' timing, the control surface, and running it.

    /SYSTEM/...                      the system's own paths
    GET  /__twin/SYSTEM/records      what the system holds          ?object=NAME
    GET  /__twin/SYSTEM/calls        every request it received      ?after=ID
    GET  /__twin/SYSTEM/faults       the active plans; POST adds one or a list (resources.sandbox.faults); DELETE removes all
    GET  /__twin/SYSTEM/limits       its limits; POST changes some, e.g. {"daily": 5}
    POST /__twin/reset               forget everything              ?system=SYSTEM
    GET  /                           a page for people              ?unmask=1

Loopback only. Nothing that a request carries is printed or logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import importlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import httpx
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from resources.destinations.registry import CONNECTORS, FILES
from resources.sandbox import faults, page
from resources.sandbox.store import Store
from resources.sandbox.twin import Answer, Call, Twin
from resources.sources.registry import READERS

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8787
_DROP: Final = "cdp.drop_connection"
_DEFAULT_SLOW_SECONDS: Final = 2.0
_DEFAULT_TIMEOUT_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)

Clock = Callable[[], dt.datetime]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _NoAnswerError(Exception):
    """The connection closes without a response."""


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


# -- twins ------------------------------------------------------------------------------------------------------------


class _Endpoint:
    """The ASGI application of one twin: reads a request, applies the fault that is due, answers, and records the call."""

    def __init__(self, twin: Twin, clock: Clock) -> None:
        self._twin, self._clock, self._store = twin, clock, twin.store
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self._in_flight += 1
        try:
            status, content, headers = await self._serve(request, body)
        except _NoAnswerError:
            await _drop(scope, receive)
            return
        finally:
            self._in_flight -= 1
        await Response(content, status, headers)(scope, receive, send)

    async def _serve(self, request: Request, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        twin = self._twin
        path = request.scope["path"].removeprefix(request.scope.get("root_path", "")) or "/"
        call = Call(
            method=request.method,
            path=path,
            query=parse_qsl(request.scope["query_string"].decode("ascii", "replace"), keep_blank_values=True),
            headers=dict(request.headers),
            body=body,
            at=self._clock(),
            base_url=f"{request.url.scheme}://{request.url.netloc}",
            in_flight=self._in_flight,
        )
        with self._store.transaction():
            plan = faults.next_fault(self._store, twin.system, call.method, path, twin.signs_in(path))
        kind = plan["kind"] if plan else None
        if plan and kind == "slow":
            await asyncio.sleep(plan.get("seconds", _DEFAULT_SLOW_SECONDS))
        if plan and kind == "timeout_before_commit":
            self._record(call, None, kind)
            await _sleep_unless_gone(request, plan.get("seconds", _DEFAULT_TIMEOUT_SECONDS))
            raise _NoAnswerError
        try:
            with self._store.transaction():
                answer = self._answer(call, plan).render()
                self._record(call, None if kind == "commit_then_drop" else answer[0], kind)
        except Exception as error:  # noqa: BLE001 - whatever a request makes a twin stumble over is its 500, as at any server
            # The type only: messages and tracebacks can quote the request.
            _log.error("the %s twin failed on a %s: %s", twin.system, call.method, type(error).__name__)
            with self._store.transaction():
                answer = twin.refuse(call, "500", {}).render()
                self._record(call, answer[0], kind)
        if kind == "commit_then_drop":
            raise _NoAnswerError
        return answer

    def _answer(self, call: Call, plan: dict[str, Any] | None) -> Answer:
        kind = plan["kind"] if plan else None
        if plan and kind in ("429", "500", "503", "expired_token", "quota_exhausted"):
            if kind == "expired_token":
                self._twin.expire_tokens()
            return self._twin.refuse(call, kind, plan)
        return self._twin.handle(Call(**{**call.__dict__, "fault": plan}))

    def _record(self, call: Call, status: int | None, fault: str | None) -> None:
        key = call.headers.get("idempotency-key")
        self._store.log_call(self._twin.system, call.at, call.method, call.path, len(call.body), status, key, fault)


async def _sleep_unless_gone(request: Request, seconds: float) -> None:
    """Wait, but not for a client that has given up: a server that shuts down need not wait for it either."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end and not await request.is_disconnected():
        await asyncio.sleep(0.02)


async def _drop(scope: Scope, receive: Receive) -> None:
    """Close the connection under the client. Outside of our own server (an in-process client) it is an error instead."""
    drop = scope.get("extensions", {}).get(_DROP)
    if drop is None:
        raise ConnectionResetError("the twin closed the connection")
    drop()
    while (await receive())["type"] != "http.disconnect":
        pass


class _DroppableConnection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a way for the application to cut the connection: ASGI itself has none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        application: Any = self.app

        @functools.wraps(application)
        async def with_drop(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[_DROP] = self.transport.abort
            await application(scope, receive, send)

        self.app = with_drop


# -- control surface --------------------------------------------------------------------------------------------------


class _Control:
    """The paths under ``/__twin`` and the page."""

    def __init__(self, store: Store, twins: dict[str, Twin]) -> None:
        self._store, self._twins = store, twins

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page, methods=["GET"]),
            Route("/__twin", self.systems, methods=["GET"]),
            Route("/__twin/reset", self.reset, methods=["POST"]),
            Route("/__twin/{system}/records", self.of_system(self.records), methods=["GET"]),
            Route("/__twin/{system}/calls", self.of_system(self.calls), methods=["GET"]),
            Route("/__twin/{system}/faults", self.of_system(self.faults), methods=["GET", "POST", "DELETE"]),
            Route("/__twin/{system}/limits", self.of_system(self.limits), methods=["GET", "POST"]),
        ]

    def of_system(self, handler: Callable[[Request, Twin], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            twin = self._twins.get(request.path_params["system"])
            if twin is None:
                return JSONResponse({"error": f"systems: {', '.join(self._twins)}"}, 404)
            return await handler(request, twin)

        return handle

    async def page(self, request: Request) -> Response:
        return HTMLResponse(page.render(self._store, list(self._twins.values()), request.query_params.get("unmask") == "1"))

    async def systems(self, request: Request) -> Response:
        return JSONResponse({"systems": list(self._twins)})

    async def reset(self, request: Request) -> Response:
        with self._store.transaction():
            self._store.reset(request.query_params.get("system"))
        return JSONResponse({"reset": True})

    async def records(self, request: Request, twin: Twin) -> Response:
        found = self._store.records(twin.system, request.query_params.get("object"))
        records = [
            {"object": r.object, "id": r.id, "fields": r.fields, "created_at": r.created_at, "updated_at": r.updated_at}
            for r in found
        ]
        return _json(
            {"system": twin.system, "count": len(records), "objects": self._store.sizes(twin.system), "records": records}
        )

    async def calls(self, request: Request, twin: Twin) -> Response:
        calls = self._store.calls(twin.system, after=int(request.query_params.get("after", 0)))
        return _json({"system": twin.system, "count": len(calls), "calls": calls})

    async def faults(self, request: Request, twin: Twin) -> Response:
        status = 200
        if request.method == "POST":
            given = orjson.loads(await request.body() or b"null")
            try:
                plans = [faults.check(plan) for plan in (given if isinstance(given, list) else [given])]
            except faults.FaultPlanError as error:
                return JSONResponse({"error": str(error)}, 400)
            with self._store.transaction():
                for plan in plans:
                    self._store.add_fault(twin.system, plan)
            status = 201
        if request.method == "DELETE":
            with self._store.transaction():
                self._store.clear_faults(twin.system)
        plans = [
            {"id": id, "plan": plan, "seen": seen, "fired": fired} for id, plan, seen, fired in self._store.faults(twin.system)
        ]
        return _json({"system": twin.system, "faults": plans}, status)

    async def limits(self, request: Request, twin: Twin) -> Response:
        if request.method == "POST":
            given = orjson.loads(await request.body() or b"null")
            if not isinstance(given, dict) or not all(n in twin.limits and isinstance(v, int) for n, v in given.items()):
                return JSONResponse({"error": f"limits: {', '.join(twin.limits)}, whole numbers"}, 400)
            with self._store.transaction():
                self._store.set_value(twin.system, "limits", {**self._store.value(twin.system, "limits", {}), **given})
        return JSONResponse({name: twin.limit(name) for name in twin.limits})


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


# -- running ----------------------------------------------------------------------------------------------------------


def _systems() -> list[str]:
    """Types with a twin: destinations and sources that are talked to."""
    return [kind for kind in dict.fromkeys([*CONNECTORS, *READERS]) if kind not in FILES]


def create_app(state_dir: str | Path, clock: Clock = _utc_now) -> Starlette:
    """The twins of every registered destination type as one ASGI application.

    ``state_dir`` holds ``twins.sqlite``; ``clock`` gives aware UTC and decides token lifetimes and quota windows.
    """
    store = Store(state_dir)
    twins = {kind: importlib.import_module(f"resources.sandbox.{kind}").create(store) for kind in _systems()}
    mounts = [Mount(f"/{kind}", app=_Endpoint(twin, clock)) for kind, twin in twins.items()]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        yield
        store.close()

    return Starlette(routes=[*_Control(store, twins).routes(), *mounts], lifespan=lifespan)


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        host=HOST,
        http=_DroppableConnection,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def _listen(port: int) -> socket.socket:
    """A loopback socket; port 0 is any free one. Raises OSError when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    return listener


def run_server(port: int, state_dir: str | Path) -> None:
    """Serve the twins on loopback until interrupted. Raises OSError when the port is taken."""
    # uvicorn closes everything on an interrupt, and then raises it again.
    with _listen(port) as listener, contextlib.suppress(KeyboardInterrupt):
        _server(create_app(state_dir)).run(sockets=[listener])


@contextlib.contextmanager
def sandbox(state_dir: str | Path, port: int | None = None, clock: Clock = _utc_now) -> Iterator[str]:
    """Twins in a thread of this process; yields their root URL, to which ``/SYSTEM`` is added. ``port`` None is any free one."""
    with _listen(port or 0) as listener:
        server = _server(create_app(state_dir, clock))
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="twins", daemon=True)
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    raise RuntimeError("the twins did not start")
                thread.join(0.01)
            yield url
        finally:
            server.should_exit = True
            thread.join(10)


def is_up(url: str) -> bool:
    """Do the twins answer at this root URL?"""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with httpx.Client(trust_env=False, timeout=1.0) as client:
            return "systems" in client.get(f"{url}/__twin").json()
    except (httpx.HTTPError, ValueError):
        return False
