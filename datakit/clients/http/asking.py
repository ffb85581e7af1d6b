"""Many requests at once, from any thread: one event loop in a thread of its own has them all under way.

    no connection, a broken one, a time-out, 502, 503, 504   sent again, `tries` times in all; then the run stops (13)
    an answer that the server broke off                      the same
    429                                                      sent again as long as the server answers anybody
    500 and other 5xx                                        sent again, `tries` times in all; then its row is refused
    3xx, 401, 402, 403, 404, 405                             the run stops (13): it is the same for every request
    other 4xx, a reply that cannot be read                   its row is refused, in the server's words

An answer, and a refusal, is written into the journal before anybody sees it, and what stands there is not asked again.
After a failure nothing more is sent; what is under way is awaited, and kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from datakit.clients.http.address import Address, Key
from datakit.clients.http.exchange import Refused, Reply, Request, Unanswered
from datakit.clients.http.limits import Limits
from datakit.clients.http.server import Server
from datakit.clients.protocols import Answers
from schemas.errors import IntegrityError, QuiverError, ServiceError, printable

_SAME_FOR_ALL = {
    401: "bad-credentials",
    402: "no-credit",
    403: "bad-credentials",
    404: "no-endpoint",
    405: "no-endpoint",
}
_TURNED_AWAY, _LATER = 429, (502, 503, 504)
_FIRST_REST, _LONGEST_REST = 0.1, 10.0
_LONGEST_BACKOFF = 60.0
_KEPT = "what was answered, which the next run uses"
_REFUSED = "refused"

T = TypeVar("T")


@dataclass(frozen=True)
class Asking:
    """What requests of the model with the identity `served` are sent through; copies share servers and loop."""

    address: Address
    served: str
    loop: Loop
    journal: Answers | None = None

    @staticmethod
    def opened(address: Address, key: Key, limits: Limits, served: str = "") -> Asking:
        """Open it; `close` ends its thread."""
        return Asking(address, served or address.model, Loop(address, key, limits))

    def journaled(self, journal: Answers) -> Asking:
        """The same, with its answers written into `journal`, and what stands there not asked."""
        return replace(self, journal=journal)

    def all(self, requests: Sequence[Request], read: Callable[[Reply], Any]) -> list[Any]:
        """What `read` makes of the reply to each, plain JSON; `{"refused": words}` where one has no answer.

        Called from any thread. `ServiceError` (13) where the servers cannot answer at all; errors of `read` that have a
        name stop everything too.
        """
        return self.each([(request, read) for request in requests])

    def each(self, requests: Sequence[tuple[Request, Callable[[Reply], Any]]]) -> list[Any]:
        """The same, of requests whose replies are read differently."""
        return self.loop.run(self._gathered(requests))

    async def _gathered(self, requests: Sequence[tuple[Request, Callable[[Reply], Any]]]) -> list[Any]:
        made = await asyncio.gather(*(self._one(one, read) for one, read in requests), return_exceptions=True)
        for one in made:
            if isinstance(one, BaseException):
                raise one
        return made

    async def _one(self, request: Request, read: Callable[[Reply], Any]) -> Any:
        key = request.key(self.served)
        if self.journal is not None and (kept := self.journal.find(key)) is not None:
            return kept
        try:
            answer = await self.loop.asked(request, key, read)
        except Refused as fault:
            answer = {_REFUSED: self.loop.key.cut_from(str(fault))}
        if self.journal is not None:
            self.journal.add(key, answer)
        return answer

    def close(self) -> None:
        """End what is under way, and the thread."""
        self.loop.close()


class Loop:
    """An event loop in a thread of its own, and the servers that are asked in it."""

    def __init__(self, address: Address, key: Key, limits: Limits) -> None:
        self.key, self.limits, self.address = key, limits, address
        self._loop = asyncio.new_event_loop()
        self._stopped: QuiverError | None = None
        self._answers_as = ""
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._thread.start()
        try:
            self._servers = self.run(self._open())
        except BaseException:
            self.close()
            raise
        self._halt: asyncio.Event

    async def _open(self) -> list[Server]:
        self._halt = asyncio.Event()
        return [Server(base, self.key, self.limits) for base in self.address.bases]

    @property
    def servers(self) -> Sequence[Server]:
        """The servers, in the order of the address."""
        return self._servers

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, done in the loop; whoever is interrupted here does not wait for it."""
        if self._loop.is_closed():
            work.close()
            raise ServiceError("client-closed", "the client is closed", kept=_KEPT)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def got(self, request: Request) -> list[Reply]:
        """What every server answers to a GET, whatever its status; `ServiceError` where one does not."""
        return self.run(self._got(request))

    async def _got(self, request: Request) -> list[Reply]:
        replies = []
        for server in self._servers:
            try:
                replies.append(await server.send(request, "GET"))
            except (Unanswered, Refused) as fault:
                what = f"{server.base} does not answer"
                raise _failed("no-answer", what, "an answer", printable(self.key.cut_from(str(fault)), 200)) from fault
        return replies

    async def asked(self, request: Request, key: str, read: Callable[[Reply], Any]) -> Any:
        """What `read` makes of the answer, after as many tries as it takes; `Refused` where there is none."""
        tries = turned_away = 0
        silent: Server | None = None
        since = time.monotonic()
        while True:
            server = self._next(silent)
            sent_in = await server.pace.enter()
            try:
                if self._stopped is not None:
                    raise self._stopped
                answer = self._read(await server.send(request), read)
                self._same_model(server, answer)
                server.down_until = 0.0
                return answer
            except Unanswered as fault:
                if fault.slow or fault.status == _TURNED_AWAY:
                    server.pace.turned_away(sent_in, fault.rest or 0.0)
                if fault.status == _TURNED_AWAY:
                    turned_away += 1
                    self._have_patience(server, since, fault)
                    rest = max(fault.rest or 0.0, _jittered(key, turned_away, _FIRST_REST, _LONGEST_REST))
                else:
                    tries, silent = tries + 1, server
                    if tries >= self.limits.tries:
                        self._give_up(server, tries, fault)
                    rest = max(fault.rest or 0.0, _jittered(key, tries, self.limits.backoff, _LONGEST_BACKOFF))
                    server.down_until = time.monotonic() + rest
            except QuiverError as fault:
                raise self._stop(fault) from fault
            finally:
                server.pace.leave()
            await self._rest(rest)

    def _read(self, reply: Reply, read: Callable[[Reply], Any]) -> Any:
        server = next(one for one in self._servers if one.base == reply.base)
        if reply.status == _TURNED_AWAY or reply.status >= 500:
            raise Unanswered(reply.words, status=reply.status, rest=reply.retry_after)
        server.pace.answered()
        if 200 <= reply.status < 300:
            try:
                answer = read(reply)
                return {**answer, "seconds": reply.seconds} if isinstance(answer, dict) else answer
            except (Refused, Unanswered, QuiverError):
                raise
            except Exception as fault:  # a list of what hostile numbers and names do would be one too short
                raise Refused(f"the reply cannot be read: {printable(fault, 120)}") from fault
        words = printable(self.key.cut_from(reply.words), 200)
        if 300 <= reply.status < 400:
            to = printable(self.key.cut_from(reply.headers.get("location", "nowhere")), 120)
            raise _failed(
                "redirected", f"{reply.base} sends to another address", "an answer", f"{reply.status} to {to}"
            )
        if reply.status in _SAME_FOR_ALL:
            raise _failed(
                _SAME_FOR_ALL[reply.status],
                f"{reply.base} refuses every request",
                "an answer",
                words,
            )
        raise Refused(words)

    def _same_model(self, server: Server, answer: Any) -> None:
        """`IntegrityError` where an answer is another model's than the first one was, by the name it is given."""
        name = answer.get("model") if isinstance(answer, dict) else None
        if name is None:
            return
        self._answers_as = self._answers_as or name
        if name != self._answers_as:
            raise IntegrityError(
                "another-model",
                f"{server.base} answers as another model than it did",
                expected=printable(self._answers_as),
                found=printable(name),
                kept=_KEPT,
                next="see to what the server serves; give weights of your own a name: revision=NAME",
            )

    def _next(self, silent: Server | None) -> Server:
        """The server with the most room, of those that are not known to be down; another than the one that was `silent`
        about this very request.
        """
        now = time.monotonic()
        return max(
            self._servers,
            key=lambda one: (one is not silent, one.down_until <= now, one.pace.limit - one.pace.load),
        )

    def _have_patience(self, server: Server, since: float, fault: Unanswered) -> None:
        waited = time.monotonic() - max(since, server.pace.last_answer)
        if waited > self.limits.patience:
            what = f"{server.base} has turned every request away for {waited:.0f} s"
            raise self._stop(_failed("server-busy", what, "an answer to any of them", self._words(fault)))

    def _give_up(self, server: Server, tries: int, fault: Unanswered) -> None:
        words = self._words(fault)
        if fault.status >= 500 and fault.status not in _LATER:
            raise Refused(words)
        what = f"{server.base} does not answer, asked {tries} times"
        raise self._stop(_failed("no-answer", what, "an answer", words))

    def _words(self, fault: Unanswered) -> str:
        return printable(self.key.cut_from(str(fault)), 200)

    def _stop(self, fault: QuiverError) -> QuiverError:
        """Send nothing more; `fault` is raised by whatever has not been sent."""
        if self._stopped is None:
            self._stopped = fault
            self._halt.set()
            for server in self._servers:
                server.pace.open_wide()
        return fault

    async def _rest(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._halt.wait(), seconds)

    def close(self) -> None:
        """Cancel what is under way, close the connections, end the thread."""
        if self._loop.is_closed():
            return
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for server in getattr(self, "_servers", ()):
            await server.close()


def _jittered(key: str, number: int, first: float, longest: float) -> float:
    """How long to wait before the next try: doubled each time, and 20 % more or less by what is asked."""
    share = hashlib.sha256(f"{key}{number}".encode()).digest()[0] / 255
    return min(longest, first * 2 ** min(number - 1, 20)) * (0.8 + 0.4 * share)


def _failed(slug: str, what: str, expected: str, actual: str) -> ServiceError:
    return ServiceError(
        slug, what, expected=expected, found=actual, kept=_KEPT,
        next="look at the server's log, then run the same command again: nothing answered is asked twice",
    )  # fmt: skip
