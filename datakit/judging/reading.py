"""What a judge's reply says: a verdict by the rubric, or why there is none. In doubt there is none, never a default.

verdict     a JSON object as `answer_schema` has it, or what stands in double brackets, and all of these agree
truncated   the reply was cut: what would have been the last word is not there
refusal     the judge, or who guards it, would not answer
unparsed    anything else, a number beyond the scale too
error       there is no reply
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from datakit.columns.refusals import first_phrase
from datakit.judging.rubric import LETTERS, TIE, Rubric
from schemas.untrusted import strict_json, unfenced

Status = Literal["verdict", "refusal", "unparsed", "truncated", "error"]
NO_VERDICT: tuple[Status, ...] = ("refusal", "unparsed", "truncated", "error")

_MARKED = re.compile(r"\[\[([^\[\]\n]{1,200})\]\]")
_NUMBER = re.compile(r"-?[0-9]{1,9}(?:\.0{1,9})?")
_BEGINNING = 200


@dataclass(frozen=True)
class Read:
    """One reply as it was read: `verdict` is a number for each score, or the places of answers as the judge saw them,
    best first (none of a tie).
    """

    status: Status
    verdict: tuple[int, ...] = ()


def read(rubric: Rubric, answers: int, reply: str | None, finish_reason: str | None, error: str | None) -> Read:
    """What one reply says about `answers` answers."""
    if error is not None or (reply is None and finish_reason not in ("refusal", "content_filter")):
        return Read("error")
    if finish_reason in ("refusal", "content_filter"):
        return Read("refusal")
    if finish_reason == "length":
        return Read("truncated")
    assert reply is not None
    verdict = _of_json(rubric, answers, reply)
    verdict = _of_marks(rubric, answers, reply) if verdict is None else verdict
    if verdict is not None:
        return Read("verdict", verdict)
    refused = first_phrase(pa.array([reply[: 2 * _BEGINNING]]), (), _BEGINNING)[0].is_valid
    return Read("refusal" if refused else "unparsed")


def _of_json(rubric: Rubric, answers: int, reply: str) -> tuple[int, ...] | None:
    try:
        given: Any = strict_json(unfenced(reply))
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict):
        return None
    if rubric.kind == "attributes":
        return _numbers(rubric, [given.get(name) for name in rubric.attributes])
    verdict = given.get("verdict")
    if rubric.kind == "score":
        return _numbers(rubric, [verdict])
    return _order(rubric, answers, verdict if isinstance(verdict, list) else [verdict])


def _of_marks(rubric: Rubric, answers: int, reply: str) -> tuple[int, ...] | None:
    """What stands in double brackets; it may be repeated, and must not contradict itself."""
    if rubric.kind == "attributes":
        return _numbers(rubric, [_marked_number(rubric, reply, name) for name in rubric.attributes])
    marks = dict.fromkeys(" ".join(mark.split()) for mark in _MARKED.findall(reply))
    if len(marks) != 1:
        return None
    (mark,) = marks
    if rubric.kind == "score":
        return _numbers(rubric, [mark])
    return _order(rubric, answers, [part.strip() for part in mark.split(">")])


def _marked_number(rubric: Rubric, reply: str, name: str) -> str | None:
    lines = re.findall(rf"(?im)^[\s*_-]*{re.escape(name)}[\s*_]*:[\s*_]*\[\[([^\[\]\n]{{1,20}})\]\]", reply)
    return lines[0].strip() if len({line.strip() for line in lines}) == 1 else None


def _numbers(rubric: Rubric, values: Sequence[Any]) -> tuple[int, ...] | None:
    """Whole numbers on the scale; of others nothing is made."""
    texts = [
        str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else "" for value in values
    ]
    if not all(_NUMBER.fullmatch(text) for text in texts):
        return None
    numbers = tuple(int(float(text)) for text in texts)
    return numbers if all(rubric.lowest <= number <= rubric.highest for number in numbers) else None


def _order(rubric: Rubric, answers: int, names: Sequence[Any]) -> tuple[int, ...] | None:
    """The places that letters name: one, or none, of two answers; all of a ranking."""
    if rubric.kind == "pairwise" and rubric.ties and [*names] == [TIE]:
        return ()
    known = [LETTERS.index(name) for name in names if isinstance(name, str) and len(name) == 1 and name in LETTERS]
    whole = len(known) == len(names) == len(set(known)) == (1 if rubric.kind == "pairwise" else answers)
    return tuple(known) if whole and max(known) < answers else None
