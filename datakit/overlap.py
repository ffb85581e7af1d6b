"""Two pieces of work at a time, in threads, their results in order: one is read or written while the other computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

THREADS = 2
"""Pieces under way; more gain nothing where one of them waits for the other."""


def overlapped(work: Callable[[int], T], count: int) -> Iterator[T]:
    """`work(0)`, `work(1)`, ... `work(count - 1)`; an error is raised in its turn, and nothing runs on behind it."""
    if count < THREADS:
        yield from map(work, range(count))
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for number in range(count):
                waiting.append(pool.submit(work, number))
                if len(waiting) == THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for piece in waiting:
                piece.cancel()
