"""One server: a request out, a bounded reply in, within three time-outs.

No redirect is followed, no proxy and no `.netrc` of the environment is used, no cookie is kept. A reply is read as
far as it may be long, decompressed piece by piece within the same bound; a key that it sends back is cut out before
anybody reads it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from datakit.clients.http.address import Key
from datakit.clients.http.exchange import Refused, Reply, Request, Unanswered
from datakit.clients.http.limits import Limits
from datakit.clients.http.pace import Pace
from schemas.errors import printable
from schemas.installed import missing_library

if TYPE_CHECKING:
    import httpx2

_AGENT = "quiver"
_PLAIN, _ZIPPED = ("", "identity"), ("gzip", "deflate", "x-gzip")
_EITHER_WINDOW = 32 + zlib.MAX_WBITS
_LOGGERS = ("httpx2", "httpcore2")
"""What logs, at its most talkative, the headers that a server sends: with the key, where it sends that back."""


class Server:
    """The server at `base`; of one event loop."""

    def __init__(self, base: str, key: Key, limits: Limits) -> None:
        try:
            import httpx2
        except ImportError as fault:
            raise missing_library("a model over HTTP", "httpx2", "http", kept="nothing was started") from fault
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.base, self.key, self.limits = base, key, limits
        self.pace = Pace(limits.concurrency)
        self.down_until = 0.0
        root = httpx2.URL(base)
        self._root = f"{root.scheme}://{root.netloc.decode('ascii')}"
        self._httpx2: Any = httpx2
        self._waits = httpx2.Timeout(limits.first_byte or limits.total, connect=limits.connect, pool=None).as_dict()
        self._verify: Any = root.scheme == "https" and httpx2.create_ssl_context(trust_env=False)
        self._headers = {
            **key.headers,
            "User-Agent": _AGENT,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "keep-alive",
        }
        self._lanes: list[httpx2.AsyncHTTPTransport] = []

    async def send(self, request: Request, method: str = "POST") -> Reply:
        """The reply, of whatever status; `Unanswered` and `Refused` where there is none that can be read."""
        url = f"{self._root if request.path.startswith('/') else self.base + '/'}{request.path}"
        content = request.data if method == "POST" else None
        kind = {} if content is None else {"Content-Type": "application/json"}
        made = self._httpx2.Request(
            method, url, headers={**self._headers, **kind}, content=content, extensions={"timeout": self._waits}
        )
        started = time.monotonic()
        try:
            return await asyncio.wait_for(self._exchange(made, request), self.limits.total)
        except (asyncio.TimeoutError, TimeoutError) as fault:
            raise Unanswered(f"no whole answer within {self.limits.total:g} s", slow=True) from fault
        except self._httpx2.ConnectTimeout as fault:
            raise Unanswered(f"no connection within {self.limits.connect:g} s", slow=True) from fault
        except self._httpx2.TimeoutException as fault:
            raise Unanswered(f"nothing came for {time.monotonic() - started:.3g} s", slow=True) from fault
        except (self._httpx2.TransportError, OSError) as fault:
            raise Unanswered(f"{type(fault).__name__}: {printable(self.key.cut_from(str(fault)), 120)}") from fault

    async def _exchange(self, request: httpx2.Request, asked: Request) -> Reply:
        started = time.monotonic()
        lane = self._lanes.pop() if self._lanes else self._new_lane()
        try:
            response = await lane.handle_async_request(request)
            try:
                coding = response.headers.get("content-encoding", "").strip().lower()
                most = max(asked.answer_bytes, self.limits.answer_bytes)
                data = self.key.cut_from_data(await _bounded(response.aiter_raw(), coding, most))
            finally:
                await response.aclose()
        finally:
            self._lanes.append(lane)
        headers = {name: self.key.cut_from(value) for name, value in response.headers.items()}
        return Reply(response.status_code, headers, data, round(time.monotonic() - started, 6), self.base)

    def _new_lane(self) -> httpx2.AsyncHTTPTransport:
        """A connection for one request after another. A pool looks through all that it has at each request, which costs
        more than the request itself; the lane that was used last is used next.
        """
        lane = self._httpx2.Limits(max_connections=None, max_keepalive_connections=1)
        made: httpx2.AsyncHTTPTransport = self._httpx2.AsyncHTTPTransport(
            verify=self._verify, trust_env=False, limits=lane
        )
        return made

    async def close(self) -> None:
        """Close the connections that are kept open for more requests."""
        while self._lanes:
            await self._lanes.pop().aclose()


async def _bounded(pieces: AsyncIterator[bytes], coding: str, most: int) -> bytes:
    """The pieces as one, decompressed; `Refused` where that is more than `most` bytes, or not what it says it is."""
    if coding not in _PLAIN + _ZIPPED:
        raise Refused(f"the reply is packed as {printable(coding, 40)}")
    unpack = zlib.decompressobj(_EITHER_WINDOW) if coding in _ZIPPED else None
    whole = bytearray()
    async for piece in pieces:
        try:
            whole += piece if unpack is None else unpack.decompress(piece, most + 1 - len(whole))
        except zlib.error as fault:
            raise Refused(f"the reply is no {printable(coding, 40)}") from fault
        if len(whole) > most:
            raise Refused(f"the reply is longer than {most:,} bytes")
    return bytes(whole)
