"""The choices of a reply, one an answer: what completions and chat have in common, and what is believed of it.

A reply's answers are plain JSON, as the journal keeps it: `{"choices": {"0": {...}}, "prompt_tokens": 7}`, and what
`used` takes of the reply besides. A choice has `text`, and where the server gave them `ids`, `logprobs` and
`reasoning`; or an `error`, which says why it is none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datakit.clients.http.exchange import Refused, Unanswered
from datakit.clients.http.usage import used
from schemas.errors import printable

_WORDS = 80
_MOST_IDS = 1 << 31
FINISHES = {"stop": "stop", "length": "length", "eos": "stop", "stop_sequence": "stop", "max_tokens": "length"}
"""What servers call the end of an answer, and what it is called here; what is not among them stays as it is."""

BROKEN_OFF = "abort"
"""vLLM's word for an answer that it was made to end: by `/pause`, by `/abort_requests`, or because it goes down."""


def choices_of(reply: Any, count: int, read: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The answers in a server's `reply` to a request for `count`: those that `read` believes; `Refused` where there
    are no choices at all.
    """
    listed = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise Refused(f"the reply has no choices: {printable(reply, _WORDS)}")
    numbers = Counter(_number(one, place) for place, one in enumerate(listed))
    made: dict[str, Any] = {}
    for place, one in enumerate(listed):
        number = _number(one, place)
        if not 0 <= number < count:
            raise Refused(f"the reply has a choice {number}, asked for {count}")
        made[str(number)] = {"error": f"choice {number} stands {numbers[number]} times in the reply"}
        if numbers[number] == 1:
            try:
                made[str(number)] = read(one)
            except Refused as fault:
                made[str(number)] = {"error": str(fault)}
    return {"choices": made, **used(reply)}


def _number(choice: Mapping[str, Any], place: int) -> int:
    number = choice.get("index", place)
    return number if isinstance(number, int) and not isinstance(number, bool) else -1


def finish_of(choice: Mapping[str, Any]) -> str:
    """Why the answer ended; `Refused` where the server does not say, `Unanswered` where it broke it off."""
    reason = choice.get("finish_reason")
    if reason == BROKEN_OFF:
        raise Unanswered(f"the server broke an answer off ({BROKEN_OFF})")
    if not isinstance(reason, str) or not 0 < len(reason) <= 40 or not reason.isidentifier():
        raise Refused(f"the reply does not say why the answer ended: {printable(reason, _WORDS)}")
    return FINISHES.get(reason, reason)


def text_of(holder: Mapping[str, Any], name: str) -> str | None:
    """The text under `name`, or None; `Refused` for anything else, and for text that cannot be written down."""
    text = holder.get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise Refused(f"{name} is no text: {printable(text, _WORDS)}")
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise Refused(f"{name} holds half of a character") from fault
    return text


def cut_at(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the texts that end an answer, where the server has left one in."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def ids_of(values: Any, name: str = "token_ids") -> list[int] | None:
    """Token ids, or None where the server gave none; `Refused` where they can be none."""
    if values is None:
        return None
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < _MOST_IDS for value in values):
        raise Refused(f"{name} holds what is no token id")
    return values


def logprobs_of(values: Any, ids: Sequence[int] | None, name: str = "logprobs") -> list[float] | None:
    """A log-probability for each of `ids`, or None where the server gave none; `Refused` where they cannot be some."""
    if values is None:
        return None
    if not isinstance(values, list) or not all(_is_logprob(value) for value in values):
        raise Refused(f"{name} holds what is no log-probability")
    if ids is not None and len(values) != len(ids):
        raise Refused(f"{len(values)} log-probabilities for {len(ids)} tokens")
    return [float(value) for value in values]


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value <= 1e-3
