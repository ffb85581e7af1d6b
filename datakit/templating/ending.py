"""Where a template ends an assistant's turn: what a model has to learn to say last, and what ends its answers.

A turn is closed by what the template writes behind its content both where the conversation ends there and where it
goes on; it ends with the first control token of that. A template that closes turns with plain text, or not at all, has
texts instead: the closing text, or what it writes where the next turn begins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from datakit.templating.sandbox import Conversation, Sandbox
from schemas.end_tokens import TurnEnd

_MARKS = re.compile("[\ue010\ue011]")
_ASKED, _ANSWERED, _ASKED_AGAIN = (f"\ue000{number}content\ue001" for number in range(3))


def control_of(tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Matches the tokens in template text, the longest where several begin; None without any."""
    texts = sorted({token for token in tokens if token.strip()}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def turn_end(sandbox: Sandbox, control: re.Pattern[str] | None) -> TurnEnd:
    """How the template ends an answer, seen on a question and its answer; nothing where it refuses them. `DataError`
    for one that breaks a limit on so little.
    """
    roles, contents = ("user", "assistant", "user"), (_ASKED, _ANSWERED, _ASKED_AGAIN)
    short, long = sandbox.render([Conversation.of(roles[:2], contents[:2]), Conversation.of(roles, contents)])
    sandbox.require_quick(short, long)
    last, between, header = _around(short.text, ""), _around(long.text, _ASKED_AGAIN), _header(long.text)
    own = between[: len(between) - _common(between[::-1], header[::-1])]
    tokens = [
        token.group() for text, end in ((last, len(last)), (between, len(own))) if (token := _first(text, control, end))
    ]
    if tokens:
        return TurnEnd(tuple(dict.fromkeys(tokens)))
    closing = (last[: _common(last, between)] if between else last).rstrip()
    if len(closing.strip()) > 1:  # a single sign, a quote or a bracket, may well stand inside an answer
        return TurnEnd((), (closing,))
    start = _first(between, control, len(between))
    text = start.group() if start else between.rstrip()
    return TurnEnd((), (text,) if text else ())


def closing(after: str, closed: str, ends: TurnEnd, control: re.Pattern[str] | None) -> int:
    """How many characters close a turn: `after` follows its content, and `closed` does where the conversation ends
    there. Up to the turn's end token, or all that both have in common.
    """
    tokens = control.finditer(after) if control else ()
    if (end := next((at.end() for at in tokens if at.group() in ends.tokens), None)) is not None:
        return end
    length = _common(after, closed)
    cut = next((at for at in control.finditer(after) if at.start() < length < at.end()), None) if control else None
    return cut.start() if cut else length


def next_end(after: str, ends: TurnEnd, control: re.Pattern[str] | None) -> int:
    """How many characters of `after` are the turn's end and white space before it; none where something else stands
    there.
    """
    token = control.search(after) if control else None
    if token and token.group() in ends.tokens and not after[: token.start()].strip():
        return token.end()
    return next((len(text) for text in ends.texts if after.startswith(text)), 0)


def _around(text: str, following: str) -> str:
    """What stands between the answer and what follows (empty: the end); nothing where either is missing."""
    _, answered, rest = text.partition(_ANSWERED)
    end = rest.find(following) if following else len(rest)
    return _MARKS.sub("", rest[: max(0, end)]) if answered else ""


def _header(text: str) -> str:
    before, asked, _ = text.partition(_ASKED)
    return _MARKS.sub("", before) if asked else ""


def _first(text: str, control: re.Pattern[str] | None, end: int) -> re.Match[str] | None:
    """The first control token of `text` that begins before `end`."""
    token = control.search(text) if control else None
    return token if token and token.start() < end else None


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    least = min(len(one), len(other))
    return next((at for at in range(least) if one[at] != other[at]), least)
