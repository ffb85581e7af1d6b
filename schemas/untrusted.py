"""The border at which bytes from outside are parsed: what a parser makes of hostile ones gets a name.

A list of exceptions at such a place is always one too short (recursion, overflow, undecodable text, a library's own
panic), so everything is caught here but what is no parser's: errors that have a name already, storage, interrupts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from schemas.errors import QuiverError
from schemas.settings import once


@contextmanager
def parsing(error_of: Callable[[str], QuiverError]) -> Iterator[None]:
    """Turn any fault of the block into `error_of(the parser's words)`; `QuiverError` and `OSError` pass as they are."""
    try:
        yield
    except (QuiverError, OSError):
        raise
    except Exception as fault:
        raise error_of(_words(fault)) from fault
    except BaseException as fault:
        if type(fault).__name__ != "PanicException":  # of a Rust library: not an Exception, so that nobody catches it
            raise
        raise error_of(_words(fault)) from fault


def strict_json(data: bytes | str) -> Any:
    """JSON of clean text, every key once, every number finite; `ValueError` and others for anything else."""
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    return json.loads(text, object_pairs_hook=once, parse_constant=_no_constant, parse_float=_finite)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _words(fault: BaseException) -> str:
    if isinstance(fault, RecursionError):
        return "nested too deep"
    return str(fault).split("\n", 1)[0] or type(fault).__name__
