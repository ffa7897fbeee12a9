"""The one port that sites can reach: of all that a SuperLink offers, it passes on what a registered SuperNode needs.

Flower serves three interfaces on one port, and the one that submits runs and registers nodes asks nobody who they are.
So a SuperLink listens on its own machine only, and this stands in front of it. A request is read whole and made anew;
whether its node may do what it asks is the SuperLink's to say.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from securefl_carriers import frames
from securefl_carriers.flower.kit import LOOPBACK, ServerKit, address
from securefl_carriers.flower.strangers import Bounded, Limits, Timed

# What a node that was registered by its key sends; `register-node` and `unregister-node` are not among it.
PASSED: Final = (
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab",
    "push-object", "pull-object", "confirm-message-received",
)  # fmt: skip
MOST: Final = frames.MOST + (1 << 20)  # bytes of a request: the longest frame, and what Flower adds
ROOM: Final = 2 * MOST  # bytes of all requests that are being read, together: nobody has said yet who it is
TIMEOUT_S: Final = 30.0  # of the SuperLink
NOT_PASSED: Final = (
    "connection", "content-length", "transfer-encoding", "keep-alive", "upgrade", "host", "te", "trailer",
    "content-encoding", "accept-encoding",
)  # fmt: skip


def gate(kit: ServerKit, limits: Limits = Limits()) -> uvicorn.Server:  # noqa: B008 - it is frozen
    """Make the gate of a server's kit; run it with `run`."""
    host, port = address(kit.public)
    superlink = httpx.URL(scheme="https", host=LOOPBACK, port=kit.port)
    trusted = ssl.create_default_context(cafile=kit.folder / "ca.crt")
    return Bounded(
        uvicorn.Config(
            _application(superlink, trusted, limits.body_s),
            host=host, port=port, log_level="warning", lifespan="on", server_header=False,
            loop="asyncio", http=partial(Timed, limits), ws="none",
            h11_max_incomplete_event_size=limits.head_bytes,
            timeout_keep_alive=limits.head_s / 2,  # what is idle is closed in peace before its deadline ends it
            limit_concurrency=limits.at_once,
            ssl_certfile=str(kit.folder / "server.crt"), ssl_keyfile=str(kit.folder / "server.key"),
        ),
        limits,
    )  # fmt: skip


def _application(superlink: httpx.URL, trusted: ssl.SSLContext, body_s: float) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, httpx.AsyncClient]]:
        async with httpx.AsyncClient(base_url=superlink, verify=trusted, timeout=TIMEOUT_S) as client:
            yield {"client": client}

    held = 0  # bytes of all requests that are being read

    async def passed_on(request: Request) -> Response:
        nonlocal held
        if request.path_params["what"] not in PASSED:
            return Response(status_code=403)
        data = bytearray()
        try:
            async with asyncio.timeout(body_s):
                async for piece in request.stream():
                    data += piece
                    held += len(piece)
                    if len(data) > MOST:
                        return Response(status_code=413)
                    if held > ROOM:
                        return Response(status_code=503)  # a SuperNode tries again
            return await answered(request, data)
        except (TimeoutError, ClientDisconnect):
            return Response(status_code=408)
        finally:
            held -= len(data)

    async def answered(request: Request, data: bytearray) -> Response:
        try:
            reply = await request.state.client.post(
                f"/v1/fleet/{request.path_params['what']}", content=bytes(data), headers=_kept(request.headers)
            )
        except httpx.HTTPError:
            return Response(status_code=503)
        return Response(reply.content, reply.status_code, _kept(reply.headers))

    return Starlette(routes=[Route("/v1/fleet/{what}", passed_on, methods=["POST"])], lifespan=lifespan)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that mean the same on the other connection; what `httpx` decoded is not encoded any more."""
    return {name: value for name, value in headers.items() if name not in NOT_PASSED}
