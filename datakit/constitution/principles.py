"""A constitution: principles, each with what a critic, a reviser and a judge are asked by it.

    {"kindness": {"prompt": ["Say where the answer is unkind."], "edit_request": "Rewrite it kindly.",
                  "choice": "Choose the kinder answer."}, ...}

`prompt` and `edit_request` are NeMo-Aligner's keys (its `CritiqueRevisionInstructions.json` is read as it is: the
`CritiqueRequest:` ... `Critique:` around a text are taken off); `choice` is what a judge of two answers goes by. A file
that is no JSON is read as its judge's prompt is: numbered lines are choices, those inside a fence where it has one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datakit.named_file import NamedFiles

_FILES = NamedFiles(
    "constitution", "bad-constitution",
    '{"NAME": {"prompt": ["critique request"], "edit_request": "revision request", "choice": "..."}, ...} as JSON, '
    "or numbered lines of text", Path(__file__).with_name("constitutions"),
)  # fmt: skip
_KEYS = {"prompt": "critique", "edit_request": "revision", "choice": "choice"}
_MARKS = re.compile(r"^\s*(?:Critique|Revision) ?Request:|\s*(?:Critique|Revision):\s*$", re.IGNORECASE)
_FENCED = re.compile(r"^```[^\n`]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NUMBERED = re.compile(r"^\s*\d{1,4}[.)]\s+(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Principle:
    """One principle: what a critic and a reviser are asked by it, and a judge; empty where it says nothing to one."""

    name: str
    critique: str = ""
    revision: str = ""
    choice: str = ""


def read_constitution(name: str) -> list[dict[str, Any]]:
    """The principles, as settings, of the constitution in the file at that place, or of one that comes with the project
    under that name; `ConfigError` where there is none.
    """
    file = _FILES.place(name)
    if file.suffix.lower() in (".txt", ".md", ""):
        return _of_lines(name, _FILES.text_of(name))
    made = []
    for key, given in _FILES.json_of(name).items():
        entry = given if isinstance(given, dict) else {}
        strange = sorted({*entry} - {*_KEYS})
        if not entry or strange:
            raise _FILES.unreadable(name, f"{key} has {_listed(strange) if strange else 'no texts'}")
        made.append({"name": key, **{_KEYS[part]: _text(name, key, part, entry[part]) for part in entry}})
    if not made:
        raise _FILES.unreadable(name, "it holds no principle")
    return made


def _text(name: str, key: str, part: str, given: Any) -> str:
    """One text; of a list its only one."""
    one = given[0] if isinstance(given, list) and len(given) == 1 else given
    text = _MARKS.sub("", one).strip() if isinstance(one, str) else ""
    if not text:
        raise _FILES.unreadable(name, f"{part} of {key} is no text")
    return text


def _of_lines(name: str, text: str) -> list[dict[str, Any]]:
    lines = _NUMBERED.findall("\n".join(_FENCED.findall(text)) or text)
    made: list[dict[str, Any]] = [{"name": str(number), "choice": line} for number, line in enumerate(lines, 1)]
    if not made:
        raise _FILES.unreadable(name, "no line of it begins with a number")
    return made


def _listed(names: list[str]) -> str:
    return f"unknown keys {', '.join(names)}"
