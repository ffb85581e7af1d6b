"""What to do about rows that a reader does not take: the setting that would take them, ready to be pasted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

from datakit.formats.keys import Key
from schemas.errors import printable
from schemas.nearest import nearest

ANY_KEY = "KEY"
"""Stands for a key that only a person can name."""

_ALIKE = {
    "answer": ("gold", "gold_answer", "solution", "ground_truth", "reference", "target", "expected", "final_answer"),
    "prompt": ("question", "query", "instruction", "problem", "input", "text", "prompt"),
    "response": ("answer", "solution", "output", "completion", "target", "response"),
    "messages": ("conversation", "conversations", "messages", "dialog", "dialogue", "turns"),
    "instruction": ("question", "query", "prompt", "task"),
    "output": ("answer", "solution", "completion", "response", "target"),
    "reward": ("score", "rating", "rm_score", "label"),
    "chosen": ("preferred", "better", "positive"),
    "rejected": ("dispreferred", "worse", "negative"),
}
_READ_BY = {
    "label": "formats kto_labels and kto_messages read it",
    "desirable": "formats kto_labels and kto_messages read it, as label",
    "history": "format alpaca reads it",
    "reasoning": "format messages reads it inside turns",
    "reasoning_content": "format messages reads it inside turns",
    "thinking": "format messages reads it inside turns",
    "tool_calls": "format messages reads it inside turns",
    "mask": "format chats reads it",
}
_THERE = re.compile(r"(?P<names>[^:]+) \(there: (?P<there>.*?)(?:, \.\.\.)?\)$")
_NOT_READ = re.compile(r"no (?P<name>[^:]+): it would change")


def alike(name: str, free: Sequence[str]) -> str:
    """The one of the keys `free` that was likely meant to be the key `name`; empty where none is."""
    return next((one for one in _ALIKE.get(name, ()) if one in free), "") or nearest(name, free, 0.75)


def renamed(missing: Sequence[Key], there: Sequence[str]) -> str:
    """How to say which of the keys `there` stand for the missing ones."""
    free = [name for name in there if isinstance(name, str)]
    columns: dict[str, str] = {}
    for key in missing:
        meant = alike(key.name, free)
        columns[key.name] = meant or ANY_KEY
        if meant:
            free.remove(meant)
    text = printable(json.dumps(columns, ensure_ascii=False), 300)
    return f"--columns '{text}'"


def advice(keys: Sequence[Key], reason: str, detail: str) -> str:
    """What to do about rows rejected for `reason`, `detail` being what the first was held against; empty where nothing
    better is known than to mend them.
    """
    if reason == "missing-key" and (match := _THERE.search(detail)):
        there = match["there"].split(", ")
        if all(any(name in key.names for key in keys) for name in there):
            return ""
        return renamed([key for key in keys if key.required and not set(key.names) & set(there)], there)
    if reason == "key-not-read" and (match := _NOT_READ.search(detail)):
        name = match["name"]
        flag = f"--ignore {shlex.quote(name)}"
        return f"{_READ_BY[name]}; to leave it out on purpose: {flag}" if name in _READ_BY else flag
    return ""
