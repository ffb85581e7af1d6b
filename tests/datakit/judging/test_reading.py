"""Replies of judges, by hand: what is a verdict, and what is none."""

from __future__ import annotations

import pytest

from datakit.judging.reading import read
from datakit.judging.rubric import Rubric

LINES = ("{conversation}", "{answers}")
SCORE = Rubric(kind="score", prompt=LINES, lowest=1, highest=5)
PAIR = Rubric(kind="pairwise", prompt=LINES)
STRICT = Rubric(kind="pairwise", prompt=LINES, ties=False)
RANKING = Rubric(kind="ranking", prompt=LINES)
TWO = Rubric(kind="attributes", prompt=LINES, lowest=0, highest=4, attributes=("clear", "right"))

VERDICTS = [
    (SCORE, "Good. [[4]]", (4,)),
    (SCORE, "[[ 4 ]] so it is [[4]]", (4,)),
    (SCORE, "[[4.0]]", (4,)),
    (SCORE, '{"explanation": "[[2]]", "verdict": 4}', (4,)),
    (SCORE, '```json\n{"verdict": 5}\n```', (5,)),
    (SCORE, '```JSON {"verdict": 5} ```', (5,)),
    (PAIR, "A is better: [[A]]", (0,)),
    (PAIR, "[[B]]", (1,)),
    (PAIR, "[[tie]]", ()),
    (PAIR, '{"explanation": "x", "verdict": "B"}', (1,)),
    (PAIR, '{"explanation": "x", "verdict": "tie"}', ()),
    (RANKING, "[[C > A > B]]", (2, 0, 1)),
    (RANKING, "[[C>A>B]]", (2, 0, 1)),
    (RANKING, '{"verdict": ["B", "C", "A"]}', (1, 2, 0)),
    (TWO, "clear: [[3]]\n- **Right**: [[0]]", (3, 0)),
    (TWO, '{"explanation": "", "clear": 1, "right": 4}', (1, 4)),
]
NONE = [
    (SCORE, "[[6]]"), (SCORE, "[[0]]"), (SCORE, "[[3.5]]"), (SCORE, "[[3]] or [[4]]"), (SCORE, "4"), (SCORE, ""),
    (SCORE, "[[four]]"), (SCORE, '{"verdict": true}'), (SCORE, '{"verdict": 9}'), (SCORE, '{"verdict": 1e999}'),
    (SCORE, "[[" * 50_000), (SCORE, "{" * 50_000), (SCORE, '{"verdict": 4, "verdict": 5}'), (SCORE, "[[1e0]]"),
    (PAIR, "[[A]] no, [[B]]"), (PAIR, "[[a]]"), (PAIR, "[[C]]"), (PAIR, "A"), (PAIR, '{"verdict": "AB"}'),
    (PAIR, '{"verdict": null}'), (PAIR, "[[A > B]]"), (STRICT, "[[tie]]"), (RANKING, "[[A > B]]"),
    (RANKING, "[[A > B > B]]"), (RANKING, "[[A > B > D]]"), (RANKING, '{"verdict": []}'), (RANKING, "[[tie]]"),
    (TWO, "clear: [[3]]"), (TWO, "clear: [[3]]\nright: [[5]]"), (TWO, "clear: [[3]]\nclear: [[2]]\nright: [[1]]"),
    (TWO, '{"clear": 1}'),
]  # fmt: skip


@pytest.mark.parametrize(("rubric", "reply", "verdict"), VERDICTS, ids=lambda one: repr(one)[:30])
def test_what_is_a_verdict(rubric, reply, verdict):
    made = read(rubric, 3 if rubric is RANKING else 2, reply, "stop", None)
    assert (made.status, made.verdict) == ("verdict", verdict)


@pytest.mark.parametrize(("rubric", "reply"), NONE, ids=lambda one: repr(one)[:30])
def test_what_is_none(rubric, reply):
    made = read(rubric, 3 if rubric is RANKING else 2, reply, "stop", None)
    assert (made.status, made.verdict) == ("unparsed", ())


@pytest.mark.parametrize(
    ("reply", "finish", "error", "status"),
    [
        ("Thinking of [[4]]", "length", None, "truncated"),
        (None, "content_filter", None, "refusal"),
        ("no", "refusal", None, "refusal"),
        ("I\u2019m sorry, but I can\u2019t judge that.", "stop", None, "refusal"),
        ("I cannot find a fault in it. [[5]]", "stop", None, "verdict"),
        (None, None, "503 from the server", "error"),
        ("[[4]]", "stop", "connection lost", "error"),
        (None, "stop", None, "error"),
        ("[[4]]", None, None, "verdict"),
    ],
)
def test_why_there_is_none(reply, finish, error, status):
    assert read(SCORE, 1, reply, finish, error).status == status
