"""What a request took: tokens as the server counted them, seconds, its price by a table, and who answered.

A table of prices is a JSON file, `{"llama": {"prompt": 0.15, "completion": 0.6}}`: for a million tokens, in whatever
currency. A price is no part of what an answer is: one that is there keeps the cost that it had.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError, QuiverError, printable
from schemas.settings import at_least, bound_faults, parse
from schemas.untrusted import exact_json, parsing

_MILLION = 1_000_000
_MOST = 1 << 31
_LONGEST_NAME = 512
_LONGEST_TABLE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of a million tokens of a prompt, and of an answer."""

    prompt: float = field(metadata=at_least(0))
    completion: float = field(metadata=at_least(0))

    @staticmethod
    def of(model: str, place: str) -> Price:
        """That of `model` in the table at `place`; `ConfigError` where there is none."""
        with parsing(lambda words: _no_price(f"it is no table of prices: {words}", place)):
            try:
                with Path(os.path.expanduser(place)).open("rb") as file:
                    table = exact_json(file.read(_LONGEST_TABLE).decode())
            except OSError as fault:
                raise _no_price(f"it cannot be read: {type(fault).__name__}", place) from fault
            if not isinstance(table, dict) or not all(isinstance(one, dict) for one in table.values()):
                raise _no_price("it is no table of prices", place)
        if model not in table:
            raise _no_price(
                f"{printable(model)} is not among {', '.join(map(printable, list(table)[:5])) or 'them'}", place
            )
        price = parse(Price, table[model], where=printable(place, 200))
        if faults := bound_faults(price):
            raise _no_price("; ".join(faults), place)
        return price


def _no_price(what: str, place: str) -> QuiverError:
    return ConfigError(
        "no-price",
        f"no price in the file that prices= names: {what}",
        expected='for every model that is asked {"MODEL": {"prompt": 0.15, "completion": 0.6}}, a million tokens each',
        where=printable(place, 200),
        kept="nothing was started",
        next="write the model's prices into it, or leave prices= out: tokens are counted all the same",
    )


@dataclass(frozen=True)
class Meter:
    """What is written down of a request: its cost where there is a `price`, its seconds where it is `timed`."""

    price: Price | None = None
    timed: bool = False

    def row(self, answer: Mapping[str, Any], answers: int) -> dict[str, Any]:
        """`USAGE` of each of the `answers` that a request asked for, whose `answer` has what `used` and the loop put
        there; null for what is not.
        """
        given, drawn = answer.get("prompt_tokens"), answer.get("completion_tokens")
        who = " ".join(answer[name] for name in ("model", "serving") if name in answer)
        cost = None
        if self.price is not None and given is not None and drawn is not None:
            cost = (given * self.price.prompt + drawn * self.price.completion) / _MILLION / answers
        return {
            "request_answers": answers,
            "request_prompt_tokens": given,
            "request_completion_tokens": drawn,
            "request_seconds": answer.get("seconds") if self.timed else None,
            "cost": cost,
            "server": who or None,
        }


COUNTED = Meter()


def used(reply: Mapping[str, Any]) -> dict[str, Any]:
    """What the server says of the tokens of a reply and of who answered: `prompt_tokens`, `completion_tokens`, `model`,
    `serving`, each only where it is there and can be believed.
    """
    usage = reply.get("usage")
    listed = usage if isinstance(usage, dict) else {}
    counts = {name: listed.get(name) for name in ("prompt_tokens", "completion_tokens")}
    names = {"model": reply.get("model"), "serving": reply.get("system_fingerprint")}
    return {
        **{name: count for name, count in counts.items() if type(count) is int and 0 <= count < _MOST},
        **{name: text for name, text in names.items() if _is_name(text)},
    }


def _is_name(text: Any) -> bool:
    """Whether that is a text that can be written down."""
    return (
        isinstance(text, str)
        and 0 < len(text) <= _LONGEST_NAME
        and not any("\ud800" <= one <= "\udfff" for one in text)
    )
