"""How many requests a server takes at a time: additive increase, multiplicative decrease.

A request that is turned away (429) or not answered in time multiplies the limit by 0.75, once for all that were sent
under the same limit; 25 answers raise it by 1. Where a limit has shown itself, it is gone beyond more and more seldom:
after 100 answers, then 200, 400 ... 3,200, so that a server with a fixed limit is kept full and rarely provoked.
(Additive increase and multiplicative decrease: Chiu and Jain, 1989; the numbers are those of NVIDIA's DataDesigner.)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

_DECREASE = 0.75
_ANSWERS_TO_GROW = 25
_FIRST_PROBE, _LAST_PROBE = 100, 3200


class Pace:
    """The requests that may be under way at one server; of one event loop, in whose thread everything is called."""

    def __init__(self, most: int) -> None:
        self.most, self.limit = most, float(most)
        self.under_way, self.last_answer = 0, time.monotonic()
        self._ceiling: int | None = None
        self._probe_after, self._answers, self._round = _FIRST_PROBE, 0, 0
        self._rests_until, self._open = 0.0, False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_room(self) -> bool:
        """Whether one more may be sent now."""
        return self._open or (time.monotonic() >= self._rests_until and self.under_way + 1 <= self.limit)

    @property
    def load(self) -> int:
        """How many are under way or wait."""
        return self.under_way + len(self._waiting)

    async def enter(self) -> int:
        """Wait, in the order of those who came, until a request may be sent; the round that it is sent in."""
        if self._waiting or not self.has_room:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self._let_in()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.leave()
                raise
        else:
            self.under_way += 1
        return self._round

    def leave(self) -> None:
        """A request that entered is over."""
        self.under_way -= 1
        self._let_in()

    def answered(self) -> None:
        """A request was answered, in whatever words."""
        self.last_answer = time.monotonic()
        self._answers += 1
        at_ceiling = self._ceiling is not None and int(self.limit) >= self._ceiling
        if self._answers >= (self._probe_after if at_ceiling else _ANSWERS_TO_GROW) and self.limit < self.most:
            if self._ceiling is not None and int(self.limit) > self._ceiling:
                self._ceiling, self._probe_after = None, _FIRST_PROBE  # more is taken than was once
            self.limit, self._answers = min(self.most, int(self.limit) + 1), 0
            self._let_in()

    def turned_away(self, sent_in: int, rest: float = 0.0) -> None:
        """A request of that round was turned away, or timed out, while others were under way; nothing is sent for
        `rest` seconds.
        """
        self._rests_until = max(self._rests_until, time.monotonic() + rest)
        if sent_in != self._round:
            return
        self._round, self._answers = self._round + 1, 0
        seen = max(1, int(self.limit) - 1)
        if self._ceiling is not None and int(self.limit) == self._ceiling + 1:
            self._probe_after = min(2 * self._probe_after, _LAST_PROBE)  # a probe that found the same limit
            self.limit = self._ceiling
        else:
            self.limit, self._ceiling = max(1.0, self.limit * _DECREASE), seen

    def open_wide(self) -> None:
        """Let everybody in who waits: nothing is sent any more."""
        self._open = True
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.has_room:
            turn = self._waiting.popleft()
            if not turn.done():
                self.under_way += 1
                turn.set_result(None)
        rest = self._rests_until - time.monotonic()
        if self._waiting and rest > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(rest, self._rested)

    def _rested(self) -> None:
        self._timer = None
        self._let_in()
