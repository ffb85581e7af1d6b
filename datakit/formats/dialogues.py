"""Whole dialogues written as one text, back to turns: NeMo-Aligner's extra-id format and Anthropic's HH
transcripts.

These texts are parsed row by row with a regular expression: splitting at a varying number of marks has no
column kernel.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa

Turns = list[tuple[str, str]]

_EXTRA = re.compile(r"(?:^|\n)<extra_id_(0>System|1>[A-Za-z]+)[ \t]*(?:\n|$)")
_HH = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"0>System": "system", "1>User": "user", "1>Assistant": "assistant"}


def extra_id(text: str) -> Turns | None:
    """Turns of a text in NeMo-Aligner's template, contents stripped, an empty system turn left out; None if
    it is none. A mark at the end, of the next turn or of the attribute label, is no content.
    """
    text = re.sub(r"\n<extra_id_[12]>\Z", "\n", text)
    parts = _EXTRA.split(_overlap(text))
    if len(parts) < 3 or parts[0].strip():
        return None
    turns = [(_ROLES.get(mark, ""), content.strip()) for mark, content in zip(parts[1::2], parts[2::2], strict=True)]
    if any(not role for role, _ in turns):
        return None
    return [turn for turn in turns if turn != ("system", "")]


def _overlap(text: str) -> str:
    """Give each mark a line break of its own, so that an empty content between two marks is seen."""
    return re.sub(r"\n(?=<extra_id_[01]>)", "\n\n", text)


def transcript(text: str) -> Turns | None:
    r"""Turns of a `\n\nHuman: ...\n\nAssistant: ...` transcript, contents stripped; None if it is none."""
    parts = _HH.split(text)
    if len(parts) < 3 or parts[0].strip():
        return None
    names = {"Human": "user", "Assistant": "assistant"}
    return [(names[mark], content.strip()) for mark, content in zip(parts[1::2], parts[2::2], strict=True)]


DIALOGUES: dict[str, Callable[[str], Turns | None]] = {"extra_id": extra_id, "hh": transcript}
"""Readers of texts that hold several turns."""


def turns_of(texts: pa.Array, dialogue: str) -> list[Turns | None]:
    """The turns of each text; None where a text is not of that kind."""
    read = DIALOGUES[dialogue]
    return [read(text) for text in texts.to_pylist()]
