"""White space that tokens swallow: an added token with `lstrip` or `rstrip` takes what stands before or behind it.

A row is looked at whole, so that ids do not depend on where its pieces end: what is swallowed goes, whichever piece it
stands in, and the token keeps its place. What counts as white space is what the `tokenizers` library takes for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

_SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space; Python's `\\s` and `str.strip` take four control characters more."""

Pieces = tuple[list[int], list[str], list[bool], list[bool]]
"""Pieces of rows, flat: each row's offset (the end included), texts, whether control tokens count, what is trained."""


class Stripping:
    """Takes swallowed white space out of pieces. `added` are a tokenizer's added tokens as its JSON has them, `control`
    those of them that only a template can write, and `split` parts a template's text at these.
    """

    def __init__(self, added: Sequence[dict[str, Any]], control: Sequence[str], split: re.Pattern[str] | None) -> None:
        self._split = split
        self._cuts: dict[str, list[str]] = {}
        sides = ({token["content"] for token in added if token.get(side)} for side in ("lstrip", "rstrip"))
        self._left, self._right = sides
        others = {token["content"] for token in added if not token.get("single_word")} - set(control)
        self._begins = _matching(f"[{_SPACES}]*", self._left & others, "")
        self._ends = _matching("", self._right & others, f"[{_SPACES}]*\\Z")

    def __bool__(self) -> bool:
        """Whether any token swallows anything."""
        return bool(self._left or self._right)

    def stripped(self, rows: list[int], texts: list[str], special: list[bool], trained: list[bool]) -> Pieces:
        """The pieces without what is swallowed: each control token is a piece, pieces without text are left out."""
        made: Pieces = ([0], [], [], [])
        for start, end in pairwise(rows):
            swallows = False
            for at in range(start, end):
                parts = self._cut(texts[at]) if special[at] else [texts[at]]
                for number, part in enumerate(parts):
                    swallows = self._append(made, part, bool(number % 2), trained[at], swallows)
            made[0].append(len(made[1]))
        return made

    def _append(self, made: Pieces, text: str, token: bool, trained: bool, swallows: bool) -> bool:
        """Adds a control token or plain text behind what `swallows` or not; whether white space behind it goes."""
        rows, texts, control, flags = made
        if not token and swallows:
            text = text.lstrip(_SPACES)
        if not text:
            return swallows
        if text in self._left if token else self._begins and self._begins.match(text):
            while len(texts) > rows[-1] and not control[-1]:
                if left := texts[-1].rstrip(_SPACES):
                    texts[-1] = left
                    break
                del texts[-1], control[-1], flags[-1]
        texts.append(text)
        control.append(token)
        flags.append(trained)
        return text in self._right if token else bool(self._ends and self._ends.search(text))

    def _cut(self, text: str) -> list[str]:
        """Template text: plain text and control tokens in turn. Templates write few texts, so each is cut once."""
        if (parts := self._cuts.get(text)) is None:
            parts = self._cuts[text] = self._split.split(text) if self._split else [text]
        return parts


def _matching(before: str, tokens: Collection[str], after: str) -> re.Pattern[str] | None:
    """Matches one of the tokens between two patterns; None without any."""
    return re.compile(f"{before}(?:{'|'.join(map(re.escape, sorted(tokens)))}){after}") if tokens else None
