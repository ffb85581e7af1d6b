"""A judge over rows: every row's questions are asked together, and what comes of the replies stands in columns."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.clients.protocols import REPLIES, Judge
from datakit.clients.sampling import Sampling
from datakit.columns import usage
from datakit.judging import asking, votes
from datakit.judging.asking import Shown
from datakit.judging.reading import NO_VERDICT, Read, read
from datakit.judging.rubric import Rubric
from schemas import MESSAGES, Column
from schemas.errors import DataError, ServiceError
from schemas.rows.usage import USAGE


def columns_of(rubric: Rubric, names: Sequence[str], output: str) -> tuple[Column, ...]:
    """What is added to rows whose answers stand in the columns `names`."""
    several = rubric.kind in ("pairwise", "ranking")
    numbers = {f"{output}_{name}": f"{name}, as the judge scores it" for name in rubric.attributes}
    numbers |= {output: "the judge's score"} if rubric.kind == "score" else {}
    numbers |= {f"{output}_wins": f"share of votes for {names[0]}, a tie is half"} if rubric.kind == "pairwise" else {}
    if several:
        numbers[f"{output}_consistent"] = "share of votes whose orders agree"
        numbers[f"{output}_first"] = "share of replies for the answer that was shown first"
    side = Column(output, pa.string(), "the column that is preferred, or tie", nullable=True)
    ranks = Column(f"{output}_ranks", pa.list_(pa.float64()), "mean rank of every answer, 1 is best", nullable=True)
    return (
        *((side,) if several else ()),
        *(Column(name, pa.float64(), about, nullable=True, finite=True) for name, about in numbers.items()),
        *((ranks,) if rubric.kind == "ranking" else ()),
        *(Column(f"{output}_{status}", pa.int64(), f"replies without a verdict: {status}") for status in NO_VERDICT),
        Column(f"{output}_replies", pa.list_(pa.string()), "what the judge said, a vote's orders beside each other"),
    )


def judged(
    judge: Judge, rubric: Rubric, rows: Sequence[Shown], names: Sequence[str], *, each: int, swap: bool,
    sampling: Sampling, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """For every row the values of `columns_of` by what stands behind the output's name; `ServiceError` where the judge
    does not answer with a reply a question.
    """
    asked = [votes.asks([_lot(row, vote, seed) for vote in range(each)], swap) for row in rows]
    every = [(row, ask) for row, questions in zip(rows, asked, strict=True) for ask in questions]
    turns = [asking.conversation(rubric, row, ask.order) for row, ask in every]
    votes_of = [ask.vote for _, ask in every]
    draws = [_number(seed, vote, *(one["content"] for one in asks)) for vote, asks in zip(votes_of, turns, strict=True)]
    schema = asking.answer_schema(rubric, len(names))
    replies = judge.judge(pa.array(turns, MESSAGES), sampling, np.array(draws, np.uint64), schema)
    checked = _checked(replies, len(turns))
    given = [
        (one["reply"], read(rubric, len(names), *(one[part] for part in ("reply", "finish_reason", "error"))))
        for one in checked
    ]
    places = np.cumsum([0, *map(len, asked)]).tolist()
    of_row = [slice(start, end) for start, end in itertools.pairwise(places)]
    return [
        {**_row(rubric, names, questions, given[those]), **usage.of_row(checked[those])}
        for questions, those in zip(asked, of_row, strict=True)
    ]


def _row(
    rubric: Rubric, names: Sequence[str], asked: Sequence[votes.Ask], given: Sequence[tuple[str | None, Read]]
) -> dict[str, Any]:
    replies = [one for _, one in given]
    made: dict[str, Any] = {"replies": [text for text, _ in given], **votes.counts(replies)}
    if rubric.kind in ("score", "attributes"):
        return made | votes.scores(rubric, replies)
    several = votes.preference if rubric.kind == "pairwise" else votes.ranking
    verdict = several(names, asked, replies)
    return made | {"": verdict.pop("preferred"), **verdict}


def _lot(row: Shown, vote: int, seed: int) -> list[int]:
    """The order in which a row's answers are shown in a vote: of what is in it, never of its place."""
    number = _number(seed, vote, *(str(turn["content"]) for turn in row.turns), *row.answers)
    return np.random.default_rng(number).permutation(len(row.answers)).tolist()


def _number(seed: int, vote: int, *texts: str) -> int:
    text = "\x1f".join((str(seed), str(vote), *texts))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _checked(replies: pa.Table, asked: int) -> list[dict[str, Any]]:
    """`REPLIES`, and `USAGE` where it is given, of every question; `ServiceError` where that is not what came."""
    try:
        given = (column for column in USAGE if column.name in replies.column_names)
        replies = REPLIES.adding(*given).conform(replies, "the judge's reply")
    except DataError as fault:
        raise _bad(fault.what) from fault
    if replies.num_rows != asked:
        raise _bad(f"asked {asked} questions, got {replies.num_rows} replies")
    return replies.to_pylist()


def _bad(what: str) -> ServiceError:
    return ServiceError(
        "bad-reply", f"the judge's replies cannot be used: {what}", expected="one reply a question",
        kept="finished chunks; no verdict was made up", next="mend the judge, then run the same command again",
    )  # fmt: skip
