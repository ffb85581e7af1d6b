"""Megatron's and PyTorch's warnings about their own internals, which nobody who trains can act on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings from within: for building and storing a network, not for running it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
