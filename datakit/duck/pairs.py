"""The pairs of a better and a worse answer to the same prompt, as one query over all prompts; and how far every answer
is from the others, which tells why one stands in no pair.

Where the rule takes the highest answers first, the answers that can be the better one are known before the join: those
with a partner at all, the first so many of them. What is joined grows with the answers then, and not with their square.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.duck.session import Session

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MEMORY = "4GB"
_LONGEST = 1 << 40  # characters: more than any answer has
_ORDER = {
    "best_vs_worst": "a.value DESC, a.place, b.value, b.place",
    "best_vs_random": "a.value DESC, a.place, b.lot",
    "all_pairs": "md5(a.lot || '-' || b.lot)",
    "right_vs_wrong": "md5(a.lot || '-' || b.lot)",
}
_QUERY = """
    WITH texts AS (
        SELECT prompt, text, any_value(size) AS size, any_value(below) AS below, any_value(above) AS above,
            min(value) AS low
        FROM answers GROUP BY prompt, text
    ), others AS (
        SELECT prompt, text, min(low) OVER (
            PARTITION BY prompt ORDER BY size RANGE BETWEEN below PRECEDING AND above FOLLOWING EXCLUDE CURRENT ROW
        ) AS low FROM texts
    ), firsts AS (
        SELECT answers.* FROM answers JOIN others USING (prompt, text) WHERE value - others.low > {margin!r}
        QUALIFY row_number() OVER (PARTITION BY prompt ORDER BY value DESC, place) <= {most}
    )
    SELECT a.row AS better, b.row AS worse FROM {better} a JOIN {worse} b
        ON a.prompt = b.prompt AND a.value - b.value > {margin!r} AND a.text <> b.text
        AND b.size BETWEEN a.size - a.below AND a.size + a.above
    QUALIFY row_number() OVER (PARTITION BY a.prompt ORDER BY {order}) <= {most}
    ORDER BY a.prompt, {order}
"""


_CAN_BE = {"right_vs_wrong": {"better": "value >= {right!r}", "worse": "value < {right!r}"}}
_HIGHEST_FIRST = ("best_vs_worst", "best_vs_random")
_DISTANCES = """
    WITH texts AS (
        SELECT prompt, text, any_value(size) AS size, any_value(below) AS below, any_value(above) AS above,
            min(value) FILTER ({worse}) AS low, max(value) FILTER ({better}) AS high
        FROM answers GROUP BY prompt, text
    ), reached AS (
        SELECT prompt, text,
            min(low) OVER near AS near_low, max(high) OVER near AS near_high,
            min(low) OVER others AS other_low, max(high) OVER others AS other_high,
            min(low) OVER every AS every_low, max(high) OVER every AS every_high
        FROM texts WINDOW
            near AS (PARTITION BY prompt ORDER BY size RANGE BETWEEN below PRECEDING AND above FOLLOWING
                EXCLUDE CURRENT ROW),
            others AS (PARTITION BY prompt ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
                EXCLUDE CURRENT ROW),
            every AS (PARTITION BY prompt)
    )
    SELECT row, {distances} FROM answers JOIN reached USING (prompt, text)
"""
_DISTANCE = """
    greatest(
        CASE WHEN {better} THEN value - {reach}_low END, CASE WHEN {worse} THEN {reach}_high - value END
    ) AS {reach}
"""
REACHES = ("near", "other", "every")
"""The answers that one is held against: those it may pair with by text and length, of another text, all."""


@dataclass(frozen=True)
class PairLimits:
    """Which answers pair: by how much the rewards differ, from which reward on an answer is right, how many pairs a
    prompt has at most, and how many times the characters of the other the longer answer has at most.
    """

    margin: float
    right_from: float
    most: int
    length_ratio: float | None


def joined_pairs(answers: Mapping[str, np.ndarray], rule: str, limits: PairLimits) -> tuple[Ints, Ints]:
    """Rows of the better and of the worse answers, prompts in ascending order, by a `rule` of `blend.pair`.

    `answers` are columns: `row`, `prompt`, `value` (finite), `place` within the prompt, `text` (equal numbers for equal
    texts), its `size` in characters, and `lot`.
    """
    below, above = _reach(answers["size"], limits.length_ratio)
    sides = {side: f"(SELECT * FROM answers WHERE {text})" for side, text in _can_be(rule, limits).items()}
    if rule in _HIGHEST_FIRST:
        sides["better"] = "firsts"
    query = _QUERY.format(
        margin=limits.margin,
        most=limits.most,
        order=f"{_ORDER[rule]}, a.place, b.place",
        **sides,
    )
    with Session(memory=_MEMORY) as session:
        session.add("answers", pa.table({**answers, "below": below, "above": above}))
        pairs = session.table(query)
    return np.asarray(pairs["better"], np.int64), np.asarray(pairs["worse"], np.int64)


def distances(answers: Mapping[str, np.ndarray], rule: str, limits: PairLimits, rows: int) -> dict[str, Floats]:
    """How far the `value` of each of `answers` (as in `joined_pairs`) is, at most, from one that the `rule` would have
    on the other side: for each of `REACHES` an array of so many `rows`, NaN where there is none.
    """
    below, above = _reach(answers["size"], limits.length_ratio)
    sides = _can_be(rule, limits)
    columns = ", ".join(_DISTANCE.format(reach=reach, **sides) for reach in REACHES)
    with Session(memory=_MEMORY) as session:
        session.add("answers", pa.table({**answers, "below": below, "above": above}))
        spans = session.table(_DISTANCES.format(distances=columns, **sides))
    place = np.asarray(spans["row"], np.int64)
    made = {reach: np.full(rows, np.nan) for reach in REACHES}
    for reach, values in made.items():
        values[place] = np.asarray(spans[reach].cast(pa.float64()).fill_null(np.nan))
    return made


def _can_be(rule: str, limits: PairLimits) -> dict[str, str]:
    """Which answers the rule takes for the better and for the worse one, as conditions in SQL."""
    texts = _CAN_BE.get(rule, {"better": "TRUE", "worse": "TRUE"})
    return {side: text.format(right=limits.right_from) for side, text in texts.items()}


def _reach(size: Ints, ratio: float | None) -> tuple[Ints, Ints]:
    """How many characters fewer, and how many more, than the `size` of an answer its partner's may have; the ratio is
    the decimal number that was written, so that 115 is within 1.15 of 100.
    """
    if ratio is None:
        return np.full_like(size, _LONGEST), np.full_like(size, _LONGEST)
    above, below = Fraction(repr(float(ratio))).as_integer_ratio()
    sizes, place = np.unique(size, return_inverse=True)
    whole = sizes.astype(object)
    least, most = -(-whole * below // above), np.minimum(whole * above // below, _LONGEST)
    return (sizes - least.astype(np.int64))[place], (most.astype(np.int64) - sizes)[place]
