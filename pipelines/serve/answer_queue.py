"""Who waits for which answer: on one event loop, in front of the thread that decodes.

The thread says what is news; the loop wakes those who wait for it. No more than `most_waiting` answers, and as many
rows that are scored, wait for a place: whoever comes then is asked to come again later. Whoever goes away frees the
places.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.serve.fields import RequestError
from pipelines.serve.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from pipelines.serve.models import Served
    from trainers.engine.inference.continuous import Answer
    from trainers.engine.inference.decoding_thread import DecodingThread, Kind, Networks

_SOONEST, _LATEST = 1, 60
_LOOK = 0.02


def _ending() -> RequestError:
    return RequestError("this server is ending", status=503, kind="server_error", code="ending")


class _Waiting:
    """One request's answers: how far each is, as the decoding thread said last (tokens, and how it ended)."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.state: dict[Answer, tuple[int, str]] = {}


class AnswerQueue:
    """Answers that are waited for, on the event loop that is running; `deliver` is the decoding thread's to call."""

    def __init__(self, most_waiting: int, metrics: Metrics) -> None:
        self.most_waiting, self.metrics, self.ending = most_waiting, metrics, False
        self._loop = asyncio.get_running_loop()
        self._of: dict[Answer, _Waiting] = {}
        self.thread: DecodingThread

    def deliver(self, news: Sequence[Answer]) -> None:
        """What is news, from the decoding thread."""
        state = [(answer, len(answer.ids), answer.finish) for answer in news]
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._update, state)

    def _update(self, state: Sequence[tuple[Answer, int, str]]) -> None:
        for answer, count, finish in state:
            if (waiting := self._of.get(answer)) is not None:
                waiting.state[answer] = count, finish
                waiting.news.set()

    async def drawn(self, answers: Sequence[Answer]) -> None:
        """Wait until all `answers` are complete; who stops waiting frees their places. `RequestError` (500) for one
        that failed.
        """
        with self._submitted(answers) as waiting:
            while len([one for one in answers if waiting.state.get(one, (0, ""))[1]]) < len(answers):
                await waiting.news.wait()
                waiting.news.clear()

    async def watched(self, answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, int, str], None]:
        """What becomes of `answers`, as it comes: which one, how many tokens it has, how it ended (or nothing)."""
        with self._submitted(answers) as waiting:
            open_, before = {*range(len(answers))}, [0] * len(answers)
            while open_:
                await waiting.news.wait()
                waiting.news.clear()
                for at in sorted(open_):
                    count, finish = waiting.state.get(answers[at], (0, ""))
                    if count > before[at] or finish:
                        yield at, count, finish
                        before[at] = count
                    if finish:
                        open_.discard(at)

    def require_room(self, answers: int) -> None:
        """`RequestError` where so many more answers are too many (429), and where the server is ending (503)."""
        if self.ending:
            raise _ending()
        if len(self._of) + answers > self.most:
            raise self._busy()

    @property
    def most(self) -> int:
        """Answers that are decoded or wait, at most."""
        return self.most_waiting + (self.thread.decoder.slots if self.thread.decoder else 0)

    @contextmanager
    def _submitted(self, answers: Sequence[Answer]) -> Iterator[_Waiting]:
        self.require_room(len(answers))
        waiting = _Waiting()
        self._of.update(dict.fromkeys(answers, waiting))
        self.thread.submit(answers)
        try:
            yield waiting
            if failed := next((one for one in answers if one.finish == "failed"), None):
                if self.ending:
                    raise _ending()
                raise RequestError(f"the answer failed: {failed.fault}", status=500, kind="server_error", code="failed")
        finally:
            if any(not one.finish for one in answers):
                self.thread.cancel(answers)
            for one in answers:
                self._of.pop(one, None)
            self.metrics.count(answers)

    async def ask(self, model: str, kind: Kind, rows: Sequence[npt.NDArray[np.int64]], k: int = 0) -> list[Any]:
        """What a network says of each of `rows`; `RequestError` as `require_room`."""
        if self.ending:
            raise _ending()
        if self.thread.rows_waiting + len(rows) > self.most:
            raise self._busy()
        futures = [asyncio.wrap_future(self.thread.ask(model, kind, row, k)) for row in rows]
        try:
            return [*await asyncio.gather(*futures)]
        except Exception:
            if self.ending:
                raise _ending() from None
            raise

    async def changed(self, opened: Callable[[], Served], before: Served) -> Served:
        """The model that `opened` gives in place of `before`, once all that came until now is answered: `opened` is
        called in the thread that has the networks. `RequestError` where it raises one, and where the server is ending.
        """
        if self.ending:
            raise _ending()
        made: list[Served] = []

        def change() -> Networks:
            made.append(opened())
            return self.thread.with_model(made[0].name, made[0].network, made[0].generator, made[0].weights_digest)

        try:
            await asyncio.shield(asyncio.wrap_future(self.thread.change(change)))
        except RequestError:
            raise
        except Exception:
            if self.ending:
                raise _ending() from None
            raise
        return made[0]

    async def end(self, seconds: float) -> None:
        """Take nothing more; wait so long for what is under way, then end it."""
        self.ending = True
        until = self._loop.time() + seconds
        while (self._of or self.thread.rows_waiting) and self._loop.time() < until:
            await asyncio.sleep(_LOOK)
        self.thread.stop()

    def _busy(self) -> RequestError:
        seconds = self.metrics.seconds_each * self.thread.waiting / max(1, self.thread.running)
        later = str(max(_SOONEST, min(_LATEST, round(seconds))))
        return RequestError(
            f"{len(self._of)} answers and {self.thread.rows_waiting} rows are under way or wait: ask again later",
            status=429,
            kind="rate_limit_error",
            code="queue_full",
            headers={"Retry-After": later},
        )
