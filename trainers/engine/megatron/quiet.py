"""Megatron's and PyTorch's warnings about their own internals, which nobody who trains can act on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_within: list[warnings.catch_warnings[None]] = []


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings from within: for building and storing a network, not for running it.

    Warning filters belong to the whole process; of threads that are quiet at once the last one out puts them back.
    """
    with _lock:
        if not _within:
            filters = warnings.catch_warnings()
            filters.__enter__()
            warnings.simplefilter("ignore")
        else:
            filters = _within[0]
        _within.append(filters)
    try:
        yield
    finally:
        with _lock:
            _within.pop()
            if not _within:
                filters.__exit__(None, None, None)
