"""Who may ask: a known host name, the secret, JSON of a bounded length; every refusal is JSON.

A page in a browser on this machine reaches the loopback interface too, and can have its own name point there: so names
in `Host` are checked, and nothing but JSON with the secret beside it is taken.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.serve.fields import RequestError
from schemas.errors import printable
from schemas.untrusted import strict_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = ("/health",)
_READING_SECONDS = 60.0


def as_json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply; numbers in it are finite."""
    from starlette.responses import Response

    data = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(data, status, headers, media_type="application/json")


def refusal(fault: RequestError) -> Response:
    """The reply to a request that cannot be answered."""
    return as_json(fault.body, fault.status, {**fault.headers})


class Guards:
    """In front of `app`: `names` are host names that it goes by (None: any address as numbers besides), `token` the
    secret (empty: none is asked for).
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str], any_address: bool, token: str) -> None:
        self.app, self.names, self.any_address = app, frozenset(names), any_address
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request

        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        try:
            self._check(request)
        except RequestError as fault:
            await refusal(fault)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            raise RequestError(f"this server is not called {printable(host)}", status=421, code="wrong_host")
        if request.url.path in OPEN:
            return
        if self._token:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
            if kind.lower() != "bearer" or not right:
                raise RequestError(
                    "a bearer token is asked for, and this is none or a wrong one",
                    status=401,
                    kind="authentication_error",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        if request.method == "POST":
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise RequestError(
                    f"the body is {printable(kind) or 'of no type'}, expected application/json", status=415
                )

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        if not self.any_address:
            return False
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False


async def body_of(request: Request, most: int) -> Any:
    """The JSON of a request, of at most `most` bytes; `RequestError` for a longer one, a slow one, and for what is no
    JSON.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("the body is packed, expected plain JSON", status=415)
    try:
        data = await asyncio.wait_for(_bounded(request, most), _READING_SECONDS)
    except (asyncio.TimeoutError, TimeoutError) as fault:
        raise RequestError(f"the body did not come within {_READING_SECONDS:g} s", status=408) from fault
    try:
        return strict_json(data)
    except Exception as fault:  # whatever a parser makes of bytes from outside
        words = "nested too deep" if isinstance(fault, RecursionError) else printable(fault, 120)
        raise RequestError(f"the body is no JSON: {words}", code="bad_json") from fault


async def _bounded(request: Request, most: int) -> bytes:
    whole = bytearray()
    async for piece in request.stream():
        whole += piece
        if len(whole) > most:
            raise RequestError(
                f"the body is longer than {most:,} bytes", status=413, code="too_long", headers={"Connection": "close"}
            )
    return bytes(whole)
