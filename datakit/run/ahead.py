"""Chunks of rows that are asked ahead, where a model elsewhere has several requests under way: while the last rows of
one chunk are answered, those of the next ones are asked, over the borders of shards too.

Results come in the order of the rows, in whatever order they are ready; paid ones are kept as soon as they are. After a
failure nothing more is asked, what is under way is kept, and the failure is raised in its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Asked(Generic[T, R]):
    item: T
    future: Future[R]
    reported: bool = False


def in_order(
    call: Callable[[T], R], items: Iterator[T], *, threads: int, most: int, ready: Callable[[T], None]
) -> Generator[tuple[T, R]]:
    """Each item and what `call` makes of it, in the order of `items`; `threads` calls are under way at a time.

    At most `most` items are begun and not handed on. `ready` is called once with each that `call` made something of, as
    it is done, in the thread of whoever iterates; after a failure with those that were under way, too, before it is
    raised. Once the iteration is closed it is called no more.
    """
    begun: deque[_Asked[T, R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ask")
    failed = waits = False
    try:
        while True:
            running = [asked.future for asked in begun if not asked.future.done()]
            while (
                not failed and len(running) < threads and len(begun) < most and (item := next(items, None)) is not None
            ):
                begun.append(_Asked(item, pool.submit(call, item)))
                running.append(begun[-1].future)
            if not begun:
                waits = True
                return
            if not begun[0].future.done():
                wait(running, return_when=FIRST_COMPLETED)
            failed |= _report(begun, ready)
            if begun[0].reported:
                first = begun.popleft()
                yield first.item, first.future.result()
    except GeneratorExit:
        waits = True
        raise
    except Exception:
        pool.shutdown(cancel_futures=True)
        _report(begun, ready)
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)  # who interrupts does not wait for answers


def _report(begun: Iterable[_Asked[T, R]], ready: Callable[[T], None]) -> bool:
    """Call `ready` with what is done since the last time; whether any call failed."""
    failed = False
    for asked in begun:
        if asked.future.done() and not asked.reported:
            asked.reported = True
            if asked.future.cancelled() or asked.future.exception() is not None:
                failed = True
            else:
                ready(asked.item)
    return failed
