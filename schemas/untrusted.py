"""The border at which bytes from outside are parsed: what a parser makes of hostile ones gets a name.

A list of exceptions at such a place is always one too short (recursion, overflow, undecodable text, a library's own
panic), so everything is caught here but what is no parser's: errors that have a name already, storage, interrupts.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from schemas.errors import QuiverError, printable

_NAMED = 5
_FENCE, _JSON = "```", ("json", "Json", "JSON")


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


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of strict JSON: `ValueError` for a key that is given twice."""
    given = dict(pairs)
    if len(given) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(name for name, count in counts.items() if count > 1)[:_NAMED]
        raise ValueError(f"key given twice: {', '.join(map(printable, twice))}")
    return given


def exact_json(text: str) -> Any:
    """JSON of a setting that a person wrote: as `strict_json`, and no number that would be read as 0 and is not."""
    return json.loads(text, object_pairs_hook=once, parse_constant=_no_constant, parse_float=exact_number)


def strict_json(data: bytes | str) -> Any:
    """JSON of clean text, every key once, every number finite; `ValueError` and others for anything else."""
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    return json.loads(text, object_pairs_hook=once, parse_constant=_no_constant, parse_float=_finite)


def unfenced(text: str) -> str:
    """`text` without blanks around it and the marks of a code block (three backquotes, `json` behind the first)."""
    text = text.strip()
    if text.startswith(_FENCE):
        text = text.removeprefix(_FENCE)
        text = next((text.removeprefix(name) for name in _JSON if text.startswith(name)), text)
    return text.removesuffix(_FENCE).strip()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def exact_number(text: str) -> float:
    """The finite number that `text` writes; `ValueError` for one that would be read as 0 and is not."""
    number = _finite(text)
    if number == 0 and any(digit in "123456789" for digit in text.lower().partition("e")[0]):
        raise ValueError(f"{text[:20]} is too small a number: it would be read as 0")
    return number


def _words(fault: BaseException) -> str:
    if isinstance(fault, RecursionError):
        return "nested too deep"
    return str(fault).split("\n", 1)[0] or type(fault).__name__
