"""One process at a time at the folder of a run: whoever comes second says so, waits, and finds what the first made."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import printable
from schemas.store.opening import open_store
from schemas.store.ownfiles import own_folder

NOTE_SECONDS = 1.0
"""Seconds of waiting without a line on the screen."""


def _stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def run_lock(folder: Path, tell: Callable[[str], None] = _stderr) -> Iterator[None]:
    """Hold the run's `folder`, made where there is none, against all other processes.

    Who has to wait says so once, through `tell`. Raises `ConflictError` after a minute of waiting.
    """
    own_folder(folder)
    store, place = open_store(folder)
    text = f"note: another process is at {printable(str(folder), 300)}; waiting for its end"
    timer = threading.Timer(NOTE_SECONDS, tell, [text])
    timer.daemon = True
    timer.start()
    try:
        with store.exclusive(place):
            timer.cancel()
            yield
    finally:
        timer.cancel()
